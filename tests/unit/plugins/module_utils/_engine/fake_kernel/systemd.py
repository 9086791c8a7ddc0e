# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd: running units, what their drop-ins say, and what it writes into their cgroups."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cgroups import Cgroups
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cpusets import (
    Cpusets,
    parent_of,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.files import Files
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import (
    Answer,
    Difference,
    Part,
    Parts,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    Baseline,
    Cpus,
    Given,
    numbers,
    text_of,
)

UNIT_FILES = "/etc/systemd/system"
RUNTIME = "/run/systemd/system.control"
TRANSIENT = "/run/systemd/transient"
PERSISTENT = "/etc/systemd/system.control"
# The order of these directories decides which of two drop-ins with the same name is read.
UNIT_PATH = (
    PERSISTENT,
    RUNTIME,
    TRANSIENT,
    "/run/systemd/generator.early",
    UNIT_FILES,
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/generator.late",
)
BY_SET_PROPERTY = ("persistent", "runtime")
LISTS = ("AllowedCPUs", "AllowedMemoryNodes")
PARTITION = "CPUSetPartition"

PARENTS = {"a.service": "/system.slice", "b.service": "/system.slice"}
DELEGATED = "/system.slice/docker.service"
RUNNING = (
    "/init.scope",
    "/system.slice",
    "/system.slice/a.service",
    "/system.slice/b.service",
    "/user.slice",
    "/user.slice/user-1000.slice",
    "/own.slice",
)


def place_of(unit: str) -> str:
    """The cgroup of a unit."""
    if unit in PARENTS:
        return f"{PARENTS[unit]}/{unit}"
    if unit.endswith(".slice"):
        words = unit[: -len(".slice")].split("-")
        return "".join(f"/{'-'.join(words[: n + 1])}.slice" for n in range(len(words)))
    return f"/{unit}"


def _runtime_file(unit: str, prop: str) -> str:
    return f"{TRANSIENT if unit == 'init.scope' else RUNTIME}/{unit}.d/50-{prop}.conf"


def _type(unit: str) -> str:
    return unit.rpartition(".")[2]


def _named_after(unit: str) -> List[str]:
    """What drop-ins of a unit may be named after, but for its type: `a-b.slice`, `a-.slice`."""
    words = unit[: -len(_type(unit)) - 1].split("-")
    prefixes = ["-".join(words[:n]) + "-" for n in range(len(words) - 1, 0, -1)]
    return [unit, *(f"{prefix}.{_type(unit)}" for prefix in prefixes)]


def _section(unit: str) -> str:
    return unit.rpartition(".")[2].capitalize()


class Systemd(Part):
    """The units, their properties and their files. Where `running` is false, the same cgroups are somebody else's."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self._files = parts[Files]
        self._cgroups = parts[Cgroups]
        self._cpusets = parts[Cpusets]
        self.running = baseline.systemd
        self._resets = baseline.resets
        self._properties = (*LISTS, PARTITION) if baseline.partitions else LISTS
        # A set of numbers or, of a partition, its type; empty if nothing says it.
        self.properties: Dict[Tuple[str, str], Any] = {}
        self.aliases: Dict[str, str] = {}
        # Of each loaded unit, the drop-ins that systemd has read, and when they were changed.
        self.known_files: Dict[str, Dict[str, int]] = {}
        extra = ([DELEGATED] if baseline.delegated else []) + (["/machine.slice"] if baseline.machine_slice else [])
        for path in (*RUNNING, *extra):
            self._cgroups.make(path)
        if self.running:
            self._files.folders.update({"/run/systemd/system", TRANSIENT})
            library = f"libsystemd-core-{262 if baseline.partitions else 260}.so"
            self._files.files["/proc/1/maps"] = f"7f0000000000-7f0000001000 r-xp /usr/lib/systemd/{library}"
            for unit, given in baseline.units:
                self._say(unit, given)
            self.reload()
        elif baseline.delegated:
            cgroups = self._cgroups.cgroups
            cgroups["/"].controller = True
            for unit, given in baseline.units:
                if parent_of(place_of(unit)) == "/" and place_of(unit) in cgroups:
                    cgroups[place_of(unit)].cpus = numbers(given.cpus)

    def _say(self, unit: str, given: Given) -> None:
        text = self._drop_in(unit, "AllowedCPUs", given.cpus, self._resets or given.source not in BY_SET_PROPERTY)
        places = {
            "file": f"{UNIT_FILES}/{unit}",
            "override": f"{UNIT_FILES}/{unit}.d/override.conf",
            "persistent": f"{PERSISTENT}/{unit}.d/50-AllowedCPUs.conf",
            "runtime": _runtime_file(unit, "AllowedCPUs"),
            "generator": f"/run/systemd/generator.late/{unit}.d/90-x.conf",
            "vendor": f"/usr/lib/systemd/system/{unit}.d/90-x.conf",
            "prefix": f"{UNIT_FILES}/{_named_after(unit)[-1]}.d/90-x.conf",
            "hiding": f"{PERSISTENT}/{_named_after(unit)[-1]}.d/50-AllowedCPUs.conf",
            "type": f"{UNIT_FILES}/{_type(unit)}.d/90-x.conf",
            "alias": f"{UNIT_FILES}/alias.{_type(unit)}.d/90-x.conf",
        }
        if given.source == "alias":
            self.aliases[unit] = f"alias.{_type(unit)}"
        self._files.put(places[given.source], text)

    @staticmethod
    def _drop_in(unit: str, prop: str, value: str, resets: bool) -> str:
        reset = [f"{prop}="] if resets and prop in LISTS else []
        return "\n".join([f"[{_section(unit)}]", *reset, f"{prop}={value.replace(',', ' ')}"])

    # What it reads

    def _drop_ins(self, unit: str) -> List[str]:
        """Of each name the first directory's, in the order of names."""
        read: Dict[str, str] = {}
        aliases = [self.aliases[unit]] if unit in self.aliases else []
        for names in (_named_after(unit), aliases, [_type(unit)]):
            for directory in (f"{place}/{name}.d" for place in UNIT_PATH for name in names):
                for name in self._files.list(directory) or []:
                    read.setdefault(name, f"{directory}/{name}")
        return [read[name] for name in sorted(read)]

    def _files_of(self, unit: str) -> Dict[str, int]:
        return {path: self._files.written[path] for path in self._drop_ins(unit)}

    def _assignments(self, unit: str, key: str) -> List[str]:
        fragments = [f"{place}/{unit}" for place in UNIT_PATH if f"{place}/{unit}" in self._files.files]
        lines = [line for path in fragments[:1] + self._drop_ins(unit) for line in self._files.files[path].splitlines()]
        return [line.partition("=")[2] for line in lines if line.partition("=")[0] == key]

    def _said(self, unit: str, prop: str) -> Any:
        """A property as the unit's files say it: what they list adds up, an empty list begins anew."""
        if prop == PARTITION:
            return (self._assignments(unit, prop) or [""])[-1]
        value: Cpus = frozenset()
        for words in self._assignments(unit, prop):
            value = value | numbers(words) if words else frozenset()
        return value

    def _disabled(self, path: str) -> bool:
        """Whether the unit of a cgroup, or one above it, has DisableControllers=cpuset."""
        for unit in ["-.slice", *filter(None, path.split("/"))]:
            said = " ".join(words or "reset" for words in self._assignments(unit, "DisableControllers"))
            if "cpuset" in said.rpartition("reset")[2].split():
                return True
        return False

    # What it writes

    def _enable(self, path: str) -> None:
        """Switch the controller on for a cgroup: in all above it."""
        above = parent_of(path)
        if path != "/":
            self._enable(above)
            if not self._cgroups.cgroups[above].controller:
                self._cgroups.set_controller(above, "+cpuset")

    def _realize(self, unit: str, prop: str) -> None:
        path = place_of(unit)
        value = self.properties.get((unit, prop))
        if path not in self._cgroups.cgroups or (not value and not self._cpusets.has_cpuset(path)):
            return
        if self._disabled(path):
            return
        self._enable(path)
        with contextlib.suppress(OSError):  # systemd logs it, and goes on
            if prop == "AllowedCPUs":
                self._cpusets.set_cpus(path, value or frozenset())
            elif prop == "AllowedMemoryNodes":
                self._cgroups.cgroups[path].mems = value or frozenset()
            elif value:  # systemd leaves alone what no file says
                self._cpusets.set_partition(path, value)

    def reload(self) -> None:
        """daemon-reload."""
        cgroups = self._cgroups.cgroups
        units = {path: os.path.basename(path) for path in sorted(cgroups) if path != "/"}
        asking = {DELEGATED} if DELEGATED in cgroups else set()
        for path, unit in units.items():
            self.known_files[unit] = self._files_of(unit)
            for prop in self._properties:
                self.properties[unit, prop] = self._said(unit, prop)
                if self.properties[unit, prop] and not self._disabled(path):
                    asking.add(path)
        for path, unit in units.items():
            if path in asking:
                self._enable(path)
            for prop in self._properties:
                self._realize(unit, prop)
        for path in sorted(cgroups, key=lambda path: -len(path)):
            below = "" if path == "/" else path
            if cgroups[path].controller and not any(a.startswith(below + "/") for a in asking):
                self._cgroups.set_controller(path, "-cpuset")

    def _start(self, unit: str) -> None:
        path = place_of(unit)
        for depth in range(2, path.count("/") + 2):
            part = "/".join(path.split("/")[:depth])
            if part not in self._cgroups.cgroups:
                self._cgroups.make(part)
        self.known_files.setdefault(unit, self._files_of(unit))
        for prop in self._properties:
            self.properties.setdefault((unit, prop), self._said(unit, prop))
            self._realize(unit, prop)

    def _stop(self, unit: str) -> None:
        self._cgroups.remove(place_of(unit))
        self.known_files.pop(unit, None)
        for prop in self._properties:
            self.properties.pop((unit, prop), None)

    def _set_property(self, unit: str, assignment: str) -> None:
        prop, _sign, value = assignment.partition("=")
        text = self._drop_in(unit, prop, text_of(numbers(value)) if prop in LISTS else value, self._resets)
        self._files.put(_runtime_file(unit, prop), text)
        ours = _runtime_file(unit, prop)
        self.known_files[unit] = {**self.known_files.get(unit, {}), ours: self._files.written[ours]}
        self.properties[unit, prop] = numbers(value) if prop in LISTS else value
        for one in self._properties:  # it writes all that is set, not only what has changed
            if one == prop or self.properties.get((unit, one)):
                self._realize(unit, one)

    # systemctl

    def ask(self, argv: Sequence[str]) -> Optional[Answer]:
        if list(argv[:2]) != ["systemctl", "show"]:
            return None
        words = [word for word in argv[1:] if word != "--"]
        if words[1:4] == ["--value", "-p", "ActiveState"]:
            return 0, "active\n" if place_of(words[4]) in self._cgroups.cgroups else "inactive\n", ""
        if words[1:4] == ["--value", "-p", "Names"]:
            return 0, " ".join([self.aliases.get(words[4], ""), words[4]]).strip() + "\n", ""
        stale = [self.known_files.get(unit) not in (None, self._files_of(unit)) for unit in words[3:]]
        return 0, "\n\n".join("yes" if old else "no" for old in stale) + "\n", ""

    def change(self, argv: Sequence[str]) -> Optional[Answer]:
        if argv[0] != "systemctl" or not self.running:
            return None
        words = [word for word in argv[1:] if word not in ("--", "--job-mode=ignore-dependencies")]
        if words == ["daemon-reload"]:
            self.reload()
        elif words[0] == "start":
            self._start(words[1])
        elif words[0] == "stop":
            self._stop(words[1])
        elif words[:2] == ["set-property", "--runtime"]:
            if words[3].partition("=")[0] not in self._properties:
                return 1, "", f"Unknown assignment: {words[3]}\n"
            self._set_property(words[2], words[3])
        else:
            return 1, "", f"Unknown command verb {words[0]}.\n"
        return 0, "", ""

    # What a test sees; the drop-ins themselves are among the files

    def snapshot(self) -> Dict[str, Any]:
        said = {name: v if isinstance(v, str) else text_of(v) for name, v in self.properties.items() if v}
        return {f"property {unit} {prop}": text for (unit, prop), text in said.items()}

    @staticmethod
    def address(seen: Difference) -> Optional[str]:
        directory, _slash, name = seen.line.rpartition("/")
        place, _slash, unit = directory.rpartition("/")
        prop = name[len("50-") : -len(".conf")]
        own = place in (RUNTIME, TRANSIENT) and prop in (*LISTS, PARTITION)
        return f"systemd.{prop}:{unit[:-2]}" if own else None
