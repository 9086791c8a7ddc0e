# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""systemd owns the cgroups of its units: their cpusets go through `systemctl set-property --runtime`.

A value written straight into a unit's cgroup is gone at the next daemon-reload.
Source: systemd.resource-control(5) AllowedCPUs= and CPUSetPartition=, systemctl(1) set-property, systemd.unit(5) for
the drop-in paths.
"""

from __future__ import annotations

import re
from typing import List, Optional

from ..errors import IsolationError, quoted
from ..paths import RELOAD_DUE
from ..text.cgroup_path import of_slice
from ..text.cpus import NONE, CpuSet, format_list, parse_list
from .host import Host
from .kind import Kind
from .notes import read_note
from .stages import Stage, Write
from .unit_files import PERSISTENT, RUNTIME, TRANSIENT, UnitFiles, assigned, names_with_drop_ins

FINAL_DROP_IN = "zzz-vfio-isolation"
OVERRIDDEN = " insisted"

_CORRECT_IT = "Correct that file or remove it, then run systemctl daemon-reload"

PARTITION_PROPERTY = "CPUSetPartition"
PARTITION_TYPES = ("member", "root", "isolated")
_WITH_PARTITION_PROPERTY = 261
_LIBRARY = re.compile(r"/libsystemd-(?:core|shared)-([0-9]{1,9})[^/]*\.so$", re.MULTILINE)

LONGEST_UNIT = 255  # characters of a name, see systemd.unit(5)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(slice|scope|service|mount|socket|swap)\Z", re.ASCII)


def unit_of(cgroup: str) -> Optional[str]:
    """The unit of the system manager that owns a cgroup, or None: what lies below a service or scope is delegated."""
    *parents, last = cgroup.strip("/").split("/")
    if len(last) <= LONGEST_UNIT and _UNIT.match(last) and all(parent.endswith(".slice") for parent in parents):
        return last
    return None


def place_of_slice(unit: str) -> Optional[str]:
    """The cgroup of a slice, such as /a.slice/a-b.slice, see systemd.slice(5); None if no slice has that name."""
    names = unit[: -len(".slice")].split("-")
    return None if "" in names else of_slice(names)


def _units(note: str) -> List[str]:
    """Units by their names. Raises ValueError for any other word, which systemctl might take for an option."""
    for word in note.split():
        if unit_of(f"/{word}") != word:
            raise ValueError(f"{quoted(word)} is not the name of a unit")
    return note.split()


def _list_of(words: str) -> CpuSet:
    """A list as unit files have it, between commas or blanks. Raises ValueError."""
    return parse_list(",".join(words.replace(",", " ").split()))


class Systemd:
    """The system manager of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._files = UnitFiles(host)

    def running(self) -> bool:
        """Whether systemd is this host's init, see sd_booted(3)."""
        return self._host.exists("/run/systemd/system")

    def has_partitions(self) -> bool:
        """Whether a partition is a property of a unit: the libraries that the system manager has loaded say it.

        systemctl would take longer for the answer than all else in a run without changes, and the files that are
        installed may be newer than what runs.
        """
        if not self.running():
            return False
        try:
            versions = _LIBRARY.findall(self._host.read("/proc/1/maps") or "")
        except IsolationError:  # without CAP_SYS_PTRACE, nobody may read it
            versions = []
        if not versions:
            return bool(self._host.ask("systemctl", "show", "-p", PARTITION_PROPERTY, "--", "-.slice"))
        return any(int(version) >= _WITH_PARTITION_PROPERTY for version in versions)

    def set_property(self, unit: str, prop: str, value: str) -> None:
        """Set a resource property until the next boot."""
        assignment = f"{prop}={value.replace(',', ' ')}"
        self._host.change("systemctl", "set-property", "--runtime", "--", unit, assignment)

    def overruled(self, unit: str, prop: str) -> bool:
        """Whether other files would have a say at a daemon-reload: those that set it as well, or that hide ours.

        Before systemd 254, the drop-in of set-property does not reset what those before it list, so they add up.
        Raises IsolationError if a file would even win over the drop-in that `override` writes.
        """
        ours, final = f"50-{prop}.conf", f"{FINAL_DROP_IN}-{prop}.conf"
        hiding = [f"{PERSISTENT}/{name}.d" for name in names_with_drop_ins(unit)[:-1]]
        found = False
        for directory, name in self._files.read_for(unit, prop):
            if name == ours:
                found = found or directory in hiding
            elif name != final and self._files.assigns(f"{directory}/{name}", prop):
                if name.endswith(".conf") and name > final:
                    raise IsolationError(
                        f"{directory}/{name} sets {prop} of {unit}, and systemd reads it last; give it a name that"
                        f" comes before {final}, then run systemctl daemon-reload"
                    )
                found = True
        return found

    def disables_cpusets(self, unit: str) -> bool:
        """Whether systemd keeps the cpuset controller off for this unit and all below it."""
        return "cpuset" in self._files.words(unit, "DisableControllers")

    def to_come(self, unit: str, prop: str) -> CpuSet:
        """The list that files other than set-property's and ours give a unit.

        A cgroup without it gets it when systemd looks at the unit again: some time after a daemon-reload.
        """
        ours = [self._final(unit, prop), *self._runtime_files(unit, prop)]
        try:
            return _list_of(" ".join(self._files.words(unit, prop, without=ours)))
        except ValueError:  # systemd takes no notice of it, either
            return NONE

    @staticmethod
    def _runtime_files(unit: str, prop: str) -> List[str]:
        """Where set-property may leave a drop-in that lasts until the next boot."""
        return [f"{directory}/{unit}.d/50-{prop}.conf" for directory in (RUNTIME, TRANSIENT)]

    @staticmethod
    def _final(unit: str, prop: str) -> str:
        return f"{RUNTIME}/{unit}.d/{FINAL_DROP_IN}-{prop}.conf"

    def override(self, unit: str, prop: str, value: Optional[str]) -> None:
        """Write a value to a drop-in that is read after all others; None removes the drop-in."""
        path = self._final(unit, prop)
        if value is not None:
            section = unit.rpartition(".")[2].capitalize()
            self._host.save(path, f"[{section}]\n{prop}=\n{prop}={value.replace(',', ' ')}\n")
        elif self._host.exists(path):
            self._reload_is_due(unit)
            self._host.remove(path)

    def override_value(self, unit: str, prop: str) -> Optional[str]:
        """The value of that drop-in; None if it does not exist. Raises IsolationError if it is none."""
        return self._said(self._final(unit, prop), prop)

    def read_anew(self, unit: str, prop: str) -> None:
        """Make systemd read a unit's files again in `reload_if_due`: until then, only what set_property said counts."""
        path = self.drop_in(unit, prop)
        if path:
            self._reload_is_due(unit)
            self._host.save(path, self._host.read(path) or "")  # one that is newer is what systemd looks for

    def active(self, unit: str) -> bool:
        """Whether systemd runs a unit: somebody else may have made a cgroup with that name."""
        state = self._host.ask("systemctl", "show", "--value", "-p", "ActiveState", "--", unit)
        return (state or "").strip() != "inactive"

    def start(self, unit: str) -> None:
        """Start a unit (a slice: create its cgroup)."""
        self._host.change("systemctl", "start", "--", unit)

    def stop(self, unit: str) -> None:
        """Stop a unit by itself. Stopping a slice would also stop what is just being started in it."""
        self._host.change("systemctl", "stop", "--job-mode=ignore-dependencies", "--", unit)

    def drop_in(self, unit: str, prop: str) -> Optional[str]:
        """The drop-in that set_property left behind; None if there is none."""
        return next((path for path in self._runtime_files(unit, prop) if self._host.exists(path)), None)

    def runtime_value(self, unit: str, prop: str) -> Optional[str]:
        """What the runtime drop-in says; None if it does not exist. Raises IsolationError if that is no value."""
        path = self.drop_in(unit, prop)
        return self._said(path, prop) if path else None

    def _said(self, path: str, prop: str) -> Optional[str]:
        """What a drop-in of ours says: a list, or the type of a partition. Raises IsolationError if it says neither."""
        text = self._host.read(path)
        if text is None:
            return None
        if prop == PARTITION_PROPERTY:
            kind = (assigned(text, prop) or [""])[-1]
            if kind and kind not in PARTITION_TYPES:
                raise IsolationError(f"{path}: {prop}={kind[:80]!r} is not a type of partition. {_CORRECT_IT}")
            return kind
        listed = ""
        for name, _equals, value in (line.partition("=") for line in text.splitlines()):
            if name.strip() == prop:  # lists add up, and an empty one resets them, see systemd.resource-control(5)
                listed = f"{listed} {value.strip()}" if value.strip() else ""
        try:
            return format_list(_list_of(listed))
        except ValueError as error:
            raise IsolationError(
                f"{path}: {prop}={listed.strip()[:80]!r} is not a list: {error}. {_CORRECT_IT}"
            ) from None

    def drop_runtime_value(self, unit: str, prop: str) -> None:
        """Remove what set_property left behind; `reload_if_due` then makes systemd forget it."""
        self._reload_is_due(unit)
        self.override(unit, prop, None)
        path = self.drop_in(unit, prop)
        if path:
            self._host.remove(path)

    def _reload_is_due(self, unit: str) -> None:
        due = self.reload_due()
        if unit not in due:
            self._host.save(RELOAD_DUE, " ".join([*due, unit]), 0o600)

    def reload_due(self) -> List[str]:
        """The units that systemd must reload. Raises IsolationError if the note of them cannot be trusted."""
        return read_note(self._host, RELOAD_DUE, _units) or []

    def reload_if_due(self) -> None:
        """Make systemd forget drop-ins that were removed, even by a run that was killed afterwards.

        A reload also picks up whatever else changed on disk, and is slow, so only if systemd says that it is needed:
        a unit that was stopped meanwhile is loaded again anyway.
        """
        units = self.reload_due()
        if not units:
            return
        for directory in (RUNTIME, TRANSIENT):
            for unit in units:
                self._host.remove_empty(f"{directory}/{unit}.d")
        self._host.remove_empty(RUNTIME)
        due = self._host.ask("systemctl", "show", "--value", "--property=NeedDaemonReload", "--", *units)
        if due is None or "yes" in due.split():
            self._host.change("systemctl", "daemon-reload")
        self._host.remove(RELOAD_DUE)


class RuntimeDropIn(Kind):
    """`systemd.AllowedCPUs:UNIT`: the list, or the type, in a unit's runtime drop-in; `none` if there is no such file.

    `0-3 insisted` if a second drop-in of ours keeps those of others from winning.
    `set-property` writes the first together with the cgroup; the kind exists so that a revert removes them again.
    """

    family = "cgroup"
    rewritten_with_cpusets = True
    adds_up = True
    held_when_right = True  # whatever is written to the cgroup later, set-property replaces it

    def __init__(self, systemd: Systemd, prop: str) -> None:
        self._systemd = systemd
        self._prop = prop

    def read(self, name: str) -> Optional[str]:
        """What the drop-in says."""
        overriding = self._systemd.override_value(name, self._prop)
        if overriding is not None:
            return overriding + OVERRIDDEN
        value = self._systemd.runtime_value(name, self._prop)
        return "none" if value is None else value

    def write(self, name: str, value: str) -> None:
        """Remove the drop-in, or create it again."""
        if value == "none":
            self._systemd.drop_runtime_value(name, self._prop)
            return
        plain = value.replace(OVERRIDDEN, "")
        if self._systemd.runtime_value(name, self._prop) != plain:
            self._systemd.set_property(name, self._prop, plain)
        if value.endswith(OVERRIDDEN):
            self._systemd.override(name, self._prop, plain)
            return
        if self._systemd.overruled(name, self._prop):
            self._systemd.read_anew(name, self._prop)
        self._systemd.override(name, self._prop, None)

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """The last write to a unit, before its cgroup is removed."""
        return [Write(Stage.DROP_IN, new)]

    def where(self, name: str) -> str:
        """The drop-in's path."""
        return self._systemd.drop_in(name, self._prop) or f"{RUNTIME}/{name}.d/50-{self._prop}.conf"

    def valid_name(self, name: str) -> bool:
        """A unit that has a cgroup."""
        return unit_of("/" + name) == name

    def valid_value(self, value: str) -> bool:
        """A list or the type of a partition, insisted or not, or none."""
        plain = value[: -len(OVERRIDDEN)] if value.endswith(OVERRIDDEN) else value
        if self._prop == PARTITION_PROPERTY:
            return plain in ("none", "", *PARTITION_TYPES)
        return value == "none" or super().valid_value(plain)
