# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model of a Linux host with systemd, behind the doors of `Host`: small enough to read, whole transactions fit.

What it does on a write is what shared FACTS (Debian 12, Linux 6.1 and 6.12) say that the kernel and systemd do.
It shares no code with the engine but the `Host` that it replaces.

All of it is in memory, but for the engine's own directory under `/run`: the journal and its lock are real files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import Refused, Skipped
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.host import Host

Cpus = FrozenSet[int]

CGROUP = "/sys/fs/cgroup"
CPU = "/sys/devices/system/cpu"
NODE = "/sys/devices/system/node"
CPUFREQ = CPU + "/cpufreq"
OWN = "/run/vfio-isolation"
RUNTIME = "/run/systemd/system.control"
TRANSIENT = "/run/systemd/transient"
PERSISTENT = "/etc/systemd/system.control"

KERNEL_THREAD = 0x00200000
FIXED = 0x04000000

GOVERNORS = ("performance", "powersave", "ondemand", "conservative", "schedutil")
PREFERENCES = ("default", "performance", "balance_performance", "balance_power", "power")


def numbers(text: str) -> Cpus:
    """What a list such as `0-3,6` holds."""
    found = set()
    for part in text.replace(" ", ",").split(","):
        if part:
            first, _dash, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def text_of(cpus: Cpus) -> str:
    """The kernel's list format, by bits."""
    bits = "".join("x" if cpu in cpus else "." for cpu in range(max(cpus, default=-1) + 1))
    runs = [(match.start(), match.end() - 1) for match in re.finditer("x+", bits)]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def os_error(code: int) -> OSError:
    """An OSError as a system call gives it."""
    return OSError(code, os.strerror(code))


class Killed(BaseException):
    """SIGKILL: no handler of the engine sees it."""


class Given(NamedTuple):
    """AllowedCPUs of a unit, and where it was said.

    `file`: the unit file, `override`: systemctl edit, `persistent` or `runtime`: set-property.
    """

    source: str
    cpus: str


class Task(NamedTuple):
    """A thread to begin with."""

    cgroup: str
    affinity: str  # what of it is in the cgroup's CPUs; all of them where that is nothing
    flags: int = 0


class Baseline(NamedTuple):
    """A host before any claim."""

    systemd: bool = True
    remembers: bool = False  # since Linux 6.2: what a user thread asked for
    refuses_by_mode: bool = False  # newer kernels: a managed interrupt's file is read-only
    delegated: bool = False  # a scope with Delegate=yes runs, so systemd has the controller on
    machine_slice: bool = False
    units: Tuple[Tuple[str, Given], ...] = ()
    governors: Tuple[str, ...] = ("schedutil", "schedutil", "schedutil", "schedutil")
    preferences: Optional[Tuple[str, ...]] = None
    irqs: Tuple[str, ...] = ("0-7", "0-7", "4", "1-5", "0-7")
    managed: FrozenSet[int] = frozenset({4})
    default_irq: str = "0-7"
    tasks: Tuple[Task, ...] = (
        Task("/", "0-7", KERNEL_THREAD),  # kthreadd
        Task("/", "0-3", KERNEL_THREAD),  # kswapd0
        Task("/", "4-7", KERNEL_THREAD),  # kswapd1
        Task("/", "5", KERNEL_THREAD),  # an interrupt's thread
        Task("/", "6", KERNEL_THREAD | FIXED),  # per CPU
        Task("/init.scope", "0-7"),
        Task("/system.slice/a.service", "5"),
        Task("/system.slice/a.service", "3,5"),
        Task("/system.slice/b.service", "1-2"),
        Task("/system.slice/b.service", "0-7"),
        Task("/user.slice/user-1000.slice", "0-7"),
    )


class Thread:
    """One thread; each is its own process here."""

    def __init__(self, start: int, cgroup: str, flags: int) -> None:
        self.start = start
        self.cgroup = cgroup
        self.flags = flags
        self.cpus: Cpus = frozenset()
        self.asked: Optional[Cpus] = None


class Cgroup:
    """One cgroup. `cpus` and the rest only count while the parent has the controller on."""

    def __init__(self) -> None:
        self.controller = False
        self.cpus: Cpus = frozenset()
        self.mems: Cpus = frozenset()
        self.partition = "member"
        self.invalid = ""


PARENTS = {"a.service": "/system.slice", "b.service": "/system.slice"}
DELEGATED = "/system.slice/docker.service"


def place_of(unit: str) -> str:
    """The cgroup of a unit."""
    if unit in PARENTS:
        return f"{PARENTS[unit]}/{unit}"
    if unit.endswith(".slice"):
        words = unit[: -len(".slice")].split("-")
        return "".join(f"/{'-'.join(words[: n + 1])}.slice" for n in range(len(words)))
    return f"/{unit}"


def parent_of(path: str) -> str:
    """The cgroup above one."""
    return path.rpartition("/")[0] or "/"


STOCK = Baseline()


class FakeKernel(Host):
    """A host of 8 CPUs and 2 NUMA nodes. `watch` is called after each write, `refuse` before it."""

    def __init__(self, root: str, baseline: Baseline = STOCK) -> None:
        super().__init__(root, run=self._systemctl, wrote=self._wrote_one)
        self.online = numbers("0-7")
        self.watch: Optional[Callable[[str], None]] = None
        self.refuse: Optional[Callable[[str], Optional[OSError]]] = None
        self.remembers = baseline.remembers
        self.log: List[str] = []
        self.acted: List[str] = []
        self.files: Dict[str, str] = {}
        self.folders = {"/run/systemd"}
        self.cgroups: Dict[str, Cgroup] = {"/": Cgroup()}
        self.threads: Dict[int, Thread] = {}
        self.properties: Dict[Tuple[str, str], Cpus] = {}
        self.known_files: Dict[str, FrozenSet[str]] = {}  # of each loaded unit, the drop-ins that systemd has read
        self.delegated = baseline.delegated
        self._make_hardware(baseline)
        self._make_units(baseline)
        self._make_threads(baseline)

    # How it begins

    def _make_hardware(self, baseline: Baseline) -> None:
        self.files.update(
            {
                "/proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555",
                "/proc/sys/kernel/osrelease": "6.1.0-40-amd64",
                "/proc/self/mountinfo": (
                    "22 1 0:20 / /sys rw - sysfs sysfs rw\n"
                    f"25 22 0:24 / {CGROUP} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
                ),
                "/proc/meminfo": "MemTotal: 2000 kB\nMemFree: 1000 kB\nHugepagesize: 2048 kB",
                "/proc/buddyinfo": "Node 0, zone DMA 1 1 1 1 1 1 1 1 1 3 2\nNode 1, zone Normal 0 0 0 0 0 0 0 0 0 1 1",
                f"{CPU}/possible": "0-7",
                f"{CPU}/online": "0-7",
                f"{CPU}/isolated": "",
                f"{NODE}/online": "0-1",
                f"{NODE}/has_memory": "0-1",
                f"{NODE}/node0/cpulist": "0-3",
                f"{NODE}/node1/cpulist": "4-7",
                f"{NODE}/node0/compact": "",
                f"{NODE}/node1/compact": "",
                "/proc/sys/vm/drop_caches": "0",
            }
        )
        self.governors = dict(enumerate(baseline.governors))
        self.preferences = dict(enumerate(baseline.preferences or ()))
        for policy in self.governors:
            self._lock_preference(policy)
        self.irqs = {number: numbers(cpus) for number, cpus in enumerate(baseline.irqs)}
        self.managed = baseline.managed
        self.default_irq = numbers(baseline.default_irq)
        self.refuses_by_mode = baseline.refuses_by_mode

    def _make_units(self, baseline: Baseline) -> None:
        self.systemd = baseline.systemd
        paths = ["/init.scope", "/system.slice", "/system.slice/a.service", "/system.slice/b.service"]
        paths += ["/user.slice", "/user.slice/user-1000.slice", "/own.slice"]
        paths += [DELEGATED] if baseline.delegated else []
        paths += ["/machine.slice"] if baseline.machine_slice else []
        for path in paths:
            self._make_cgroup(path)
        if not self.systemd:
            self.cgroups["/"].controller = self.delegated
            for unit, given in baseline.units:
                if self.delegated and parent_of(place_of(unit)) == "/" and place_of(unit) in self.cgroups:
                    self.cgroups[place_of(unit)].cpus = numbers(given.cpus)
            return
        self.folders.update({"/run/systemd/system", TRANSIENT})
        for unit, given in baseline.units:
            section = unit.rpartition(".")[2].capitalize()
            text = f"[{section}]\nAllowedCPUs=\nAllowedCPUs={given.cpus.replace(',', ' ')}"
            places = {
                "file": f"/etc/systemd/system/{unit}",
                "override": f"/etc/systemd/system/{unit}.d/override.conf",
                "persistent": f"{PERSISTENT}/{unit}.d/50-AllowedCPUs.conf",
                "runtime": self._runtime_file(unit, "AllowedCPUs"),
            }
            self._put(places[given.source], text)
        self._reload()

    def _make_threads(self, baseline: Baseline) -> None:
        for index, task in enumerate(baseline.tasks):
            self.add_thread(100 + index, task.cgroup, task.affinity, task.flags)

    def add_thread(self, thread: int, cgroup: str, affinity: str, flags: int = 0, start: int = 0) -> None:
        """A thread begins, and asks for CPUs."""
        new = Thread(start or 5000 + thread, cgroup, flags)
        room = self.room(cgroup)
        asked = numbers(affinity)
        if flags & FIXED:
            new.cpus = asked
        else:
            new.cpus = (asked & room) or room
            if asked & room and new.cpus != room:
                new.asked = asked
        self.threads[thread] = new

    # What the kernel makes of cpusets

    def _has_cpuset(self, path: str) -> bool:
        return path == "/" or self.cgroups[parent_of(path)].controller

    def _css(self, path: str) -> str:
        """The nearest cgroup that has a cpuset."""
        while not self._has_cpuset(path):
            path = parent_of(path)
        return path

    def _valid_partition(self, path: str) -> bool:
        group = self.cgroups[path]
        return self._has_cpuset(path) and group.partition != "member" and not group.invalid

    def room(self, path: str) -> Cpus:
        """cpuset.cpus.effective of the cpuset that a cgroup is in."""
        path = self._css(path)
        group = self.cgroups[path]
        if path == "/":
            mine = self.online
        elif self._valid_partition(path):
            mine = group.cpus & self.online
        else:
            above = self.room(parent_of(path))
            mine = (group.cpus & above) or above
        for child, below in self.cgroups.items():
            if child != "/" and parent_of(child) == path and self._valid_partition(child):
                mine -= below.cpus
        return mine

    def _why_invalid(self, path: str) -> str:
        group = self.cgroups[path]
        above = parent_of(path)
        siblings = [c for c in self.cgroups if c not in ("/", path) and parent_of(c) == above]
        if not group.cpus:
            return "cpuset.cpus is empty"
        if any(self.cgroups[sibling].cpus & group.cpus for sibling in siblings):
            return "Cpu list in cpuset.cpus not exclusive"
        if above != "/" and not self._valid_partition(above):
            return "Parent is not a partition root"
        if (not self.room(above) - group.cpus and not self._valid_partition(path)) or not self.room(above):
            return "Parent unable to distribute cpu downstream"
        return ""

    @contextlib.contextmanager
    def _cpusets_change(self) -> Iterator[None]:
        """Whatever changes in here, the threads of each cpuset whose CPUs changed are reset."""
        before = {thread: (self._css(t.cgroup), self.room(t.cgroup)) for thread, t in self.threads.items()}
        yield
        for path in sorted(self.cgroups):
            if self._valid_partition(path):
                self.cgroups[path].invalid = self._why_invalid(path)
        for thread, task in self.threads.items():
            css, room = self._css(task.cgroup), self.room(task.cgroup)
            if room != before[thread][1] or (css != before[thread][0] and not self.remembers):
                self._reset(task, room)

    def _reset(self, task: Thread, room: Cpus) -> None:
        if task.flags & FIXED:
            return
        asked = task.asked if self.remembers and not task.flags & KERNEL_THREAD else None
        task.cpus = (asked & room if asked else frozenset()) or room

    def _make_cgroup(self, path: str) -> None:
        self.cgroups[path] = Cgroup()

    def _remove_cgroup(self, path: str) -> None:
        for child in [c for c in self.cgroups if parent_of(c) == path and c != "/"]:
            self._remove_cgroup(child)
        with self._cpusets_change():
            for thread in [number for number, t in self.threads.items() if t.cgroup == path]:
                del self.threads[thread]
            group = self.cgroups[path]
            group.cpus, group.partition, group.invalid = frozenset(), "member", ""
        del self.cgroups[path]

    def _set_cpus(self, path: str, cpus: Cpus) -> None:
        if not self._has_cpuset(path) or path == "/":
            raise os_error(errno.ENOENT)
        if cpus - numbers("0-7"):
            raise os_error(errno.EINVAL)
        if self.cgroups[path].cpus and not cpus and self._populated(path):
            raise os_error(errno.ENOSPC)
        with self._cpusets_change():
            self.cgroups[path].cpus = cpus

    def _populated(self, path: str) -> bool:
        return any((task.cgroup + "/").startswith(path + "/") for task in self.threads.values())

    def _set_partition(self, path: str, kind: str) -> None:
        if not self._has_cpuset(path) or path == "/":
            raise os_error(errno.ENOENT)
        if kind not in ("member", "root", "isolated"):
            raise os_error(errno.EINVAL)
        group = self.cgroups[path]
        with self._cpusets_change():
            if kind == "member":
                group.partition, group.invalid = kind, ""
            elif group.partition == "member" or (group.invalid and self.remembers):
                group.partition, group.invalid = "member", ""
                why = self._why_invalid(path)
                group.partition, group.invalid = kind, why
            elif not group.invalid:  # on 6.1, writing a type over an invalid one changes nothing
                group.partition = kind

    def _set_controller(self, path: str, word: str) -> None:
        if word not in ("+cpuset", "-cpuset"):
            raise os_error(errno.EINVAL)
        if path != "/" and not self.cgroups[parent_of(path)].controller:
            raise os_error(errno.ENOENT)
        children = [c for c in self.cgroups if c != "/" and parent_of(c) == path]
        if word == "-cpuset" and any(self.cgroups[child].controller for child in children):
            raise os_error(errno.EBUSY)
        with self._cpusets_change():
            self.cgroups[path].controller = word == "+cpuset"
            if word == "-cpuset":
                for child in children:
                    fresh = Cgroup()
                    self.cgroups[child] = fresh

    def _move(self, path: str, thread: int) -> None:
        if thread not in self.threads:
            raise os_error(errno.ESRCH)
        task = self.threads[thread]
        if task.flags & (KERNEL_THREAD | FIXED):
            raise os_error(errno.EINVAL)
        before, room = self.room(task.cgroup), self.room(path)
        task.cgroup = path
        if before != room or not self.remembers:
            self._reset(task, room)

    # What systemd makes of units

    def _put(self, path: str, text: str) -> None:
        self.files[path] = text
        while path != "/":
            path = os.path.dirname(path)
            self.folders.add(path)

    @staticmethod
    def _runtime_file(unit: str, prop: str) -> str:
        return f"{TRANSIENT if unit == 'init.scope' else RUNTIME}/{unit}.d/50-{prop}.conf"

    def _files_of(self, unit: str) -> FrozenSet[str]:
        return frozenset(path for path in self.files if f"/{unit}.d/" in path)

    def _said(self, unit: str, prop: str) -> Cpus:
        """A property as the unit's drop-ins say it: of each name the first directory's, read in the order of names."""
        drop_ins: Dict[str, str] = {}
        for directory in ("/etc/systemd/system", TRANSIENT, RUNTIME, PERSISTENT):
            for name in self.list(f"{directory}/{unit}.d"):
                drop_ins[name] = self.files[f"{directory}/{unit}.d/{name}"]
        value: Cpus = frozenset()
        fragment = self.files.get(f"/etc/systemd/system/{unit}", "")
        for text in [fragment] + [drop_ins[name] for name in sorted(drop_ins)]:
            for line in text.splitlines():
                key, _sign, words = line.partition("=")
                if key == prop:
                    value = value | numbers(words) if words else frozenset()
        return value

    def _units(self) -> Dict[str, str]:
        """The running units, by cgroup."""
        return {path: os.path.basename(path) for path in sorted(self.cgroups) if path != "/"}

    def _enable(self, path: str) -> None:
        """Switch the controller on for a cgroup: in all above it."""
        above = parent_of(path)
        if path != "/":
            self._enable(above)
            if not self.cgroups[above].controller:
                self._set_controller(above, "+cpuset")

    def _realize(self, unit: str, prop: str) -> None:
        path = place_of(unit)
        value = self.properties.get((unit, prop), frozenset())
        if path not in self.cgroups or (not value and not self._has_cpuset(path)):
            return
        self._enable(path)
        if prop == "AllowedCPUs":
            with contextlib.suppress(OSError):  # systemd logs it, and goes on
                self._set_cpus(path, value)
        else:
            self.cgroups[path].mems = value

    def _reload(self) -> None:
        units = self._units()
        asking = {DELEGATED} if DELEGATED in self.cgroups else set()
        for path, unit in units.items():
            self.known_files[unit] = self._files_of(unit)
            for prop in ("AllowedCPUs", "AllowedMemoryNodes"):
                self.properties[unit, prop] = self._said(unit, prop)
                if self.properties[unit, prop]:
                    asking.add(path)
        for path, unit in units.items():
            if path in asking:
                self._enable(path)
            for prop in ("AllowedCPUs", "AllowedMemoryNodes"):
                self._realize(unit, prop)
        for path in sorted(self.cgroups, key=lambda path: -len(path)):
            below = "" if path == "/" else path
            if self.cgroups[path].controller and not any(a.startswith(below + "/") for a in asking):
                self._set_controller(path, "-cpuset")

    def _systemctl(self, argv: Sequence[str]) -> Tuple[int, str, str]:
        words = [word for word in argv[1:] if word not in ("--", "--job-mode=ignore-dependencies")]
        if words[:4] == ["show", "--value", "-p", "ActiveState"]:
            return 0, "active\n" if place_of(words[4]) in self.cgroups else "inactive\n", ""
        if words[0] == "show":
            stale = [self.known_files.get(unit) not in (None, self._files_of(unit)) for unit in words[3:]]
            return 0, "\n\n".join("yes" if old else "no" for old in stale) + "\n", ""
        refused = self.refuse and self.refuse(" ".join(argv))
        if refused:
            return 1, "", f"Failed to do it: {refused.strerror}\n"
        assert argv[0] == "systemctl" and self.systemd, argv
        if words == ["daemon-reload"]:
            self._reload()
        elif words[0] == "start":
            path = place_of(words[1])
            for depth in range(2, path.count("/") + 2):
                part = "/".join(path.split("/")[:depth])
                if part not in self.cgroups:
                    self._make_cgroup(part)
            self.known_files.setdefault(words[1], self._files_of(words[1]))
            for prop in ("AllowedCPUs", "AllowedMemoryNodes"):
                self.properties.setdefault((words[1], prop), self._said(words[1], prop))
                self._realize(words[1], prop)
        elif words[0] == "stop":
            self._remove_cgroup(place_of(words[1]))
            self.known_files.pop(words[1], None)
            for prop in ("AllowedCPUs", "AllowedMemoryNodes"):
                self.properties.pop((words[1], prop), None)
        elif words[:2] == ["set-property", "--runtime"]:
            unit, (prop, _sign, value) = words[2], words[3].partition("=")
            section = unit.rpartition(".")[2].capitalize()
            lines = [f"[{section}]", f"{prop}=", f"{prop}={text_of(numbers(value)).replace(',', ' ')}"]
            self._put(self._runtime_file(unit, prop), "\n".join(lines))
            self.known_files[unit] = self.known_files.get(unit, frozenset()) | {self._runtime_file(unit, prop)}
            self.properties[unit, prop] = numbers(value)
            self._realize(unit, prop)
        else:
            return 1, "", f"Unknown command verb {words[0]}.\n"
        return 0, "", ""

    # The doors: reading

    def _cgroup_file(self, path: str) -> Optional[str]:
        directory, _slash, name = path[len(CGROUP) :].rpartition("/")
        group = self.cgroups.get(directory or "/")
        if group is None:
            return None
        threads = [str(number) for number, task in sorted(self.threads.items()) if task.cgroup == (directory or "/")]
        answers = {
            "cgroup.controllers": "cpuset cpu io memory pids",
            "cgroup.subtree_control": "cpuset cpu" if group.controller else "cpu",
            "cgroup.procs": "\n".join(threads),
            "cgroup.threads": "\n".join(threads),
        }
        if directory:
            answers["cgroup.events"] = f"populated {int(self._populated(directory))}\nfrozen 0"
        if self._has_cpuset(directory or "/"):
            answers["cpuset.cpus.effective"] = text_of(self.room(directory or "/"))
            answers["cpuset.mems.effective"] = "0-1"
            if directory:
                answers["cpuset.cpus"] = text_of(group.cpus)
                answers["cpuset.mems"] = text_of(group.mems)
                answers["cpuset.cpus.partition"] = group.partition + (
                    f" invalid ({group.invalid})" if group.invalid else ""
                )
        return answers.get(name)

    def _proc_file(self, thread: int, name: str) -> Optional[str]:
        task = self.threads.get(thread)
        if task is None:
            return None
        if name == "cgroup":
            return f"0::{task.cgroup}"
        if name == "status":
            return f"Name: x\nTgid:\t{thread}\nPid:\t{thread}"
        fields = ["S", "1", str(thread), str(thread), "0", "-1", str(task.flags)] + ["0"] * 12
        fields += [str(task.start)] + ["0"] * 30
        return f"{thread} (a ) b) {' '.join(fields)}" if name == "stat" else None

    def _policy_file(self, policy: int, name: str) -> Optional[str]:
        if policy not in self.governors:
            return None
        answers = {
            "affected_cpus": f"{2 * policy} {2 * policy + 1}",
            "scaling_governor": self.governors[policy],
            "scaling_available_governors": " ".join(GOVERNORS) + " ",
        }
        if policy in self.preferences:
            answers["energy_performance_preference"] = self.preferences[policy]
            answers["energy_performance_available_preferences"] = " ".join(PREFERENCES)
        return answers.get(name)

    def read(self, path: str) -> Optional[str]:
        if path.startswith(OWN):
            return super().read(path)
        if path.startswith(CGROUP + "/"):
            return self._cgroup_file(path)
        match = re.match(r"/proc/(\d+)/(\w+)\Z", path)
        if match:
            return self._proc_file(int(match.group(1)), match.group(2))
        match = re.match(r"/proc/irq/(\d+)/smp_affinity_list\Z", path)
        if match:
            number = int(match.group(1))
            return text_of(self.irqs[number]) if number in self.irqs else None
        if path == "/proc/irq/default_smp_affinity":
            return f"{sum(1 << cpu for cpu in self.default_irq):02x}"
        match = re.match(CPUFREQ + r"/policy(\d+)/(\w+)\Z", path)
        if match:
            return self._policy_file(int(match.group(1)), match.group(2))
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        if path.startswith(OWN):
            return super().exists(path)
        if path.startswith(CGROUP):
            return path[len(CGROUP) :] in self.cgroups or self.read(path) is not None
        return path in self.folders or self.read(path) is not None

    def list(self, path: str) -> List[str]:
        if path.startswith(CGROUP):
            own = path[len(CGROUP) :].rstrip("/") or "/"
            return sorted(c.rpartition("/")[2] for c in self.cgroups if c != "/" and parent_of(c) == own)
        if path == "/proc/irq":
            return sorted([str(number) for number in self.irqs] + ["default_smp_affinity"])
        if path == CPUFREQ:
            return sorted(f"policy{policy}" for policy in self.governors)
        match = re.match(r"/proc/(\d+)/task\Z", path)
        if match:
            return [match.group(1)] if int(match.group(1)) in self.threads else []
        names = {file[len(path) + 1 :].split("/")[0] for file in self.files if file.startswith(path + "/")}
        names |= {d[len(path) + 1 :].split("/")[0] for d in self.folders if d.startswith(path + "/")}
        return sorted(names)

    def affinity(self, thread: int) -> Optional[Cpus]:
        return self.threads[thread].cpus if thread in self.threads else None

    # The doors: writing

    def _wrote_one(self, what: str) -> None:
        self.log.append(what)
        if self.watch:
            self.watch(what)

    def _refuse(self, what: str, path: str, value: str) -> None:
        error = self.refuse and self.refuse(what)
        if error:
            raise Refused.of(error, path, value)

    def directories(self, path: str) -> Optional[List[str]]:
        assert path.startswith(CGROUP), path
        return self.list(path) if (path[len(CGROUP) :] or "/") in self.cgroups else None

    def writable(self, path: str) -> bool:
        number = int(path.split("/")[3])
        return not (self.refuses_by_mode and number in self.managed)

    def probe_errno(self, path: str, text: str) -> int:
        assert text == "?\n", "only what changes nothing may be tried"
        return errno.EIO if int(path.split("/")[3]) in self.managed else errno.EINVAL

    def make_directory(self, path: str) -> None:
        self._refuse(f"mkdir {path}", path, "mkdir")
        if parent_of(path[len(CGROUP) :]) not in self.cgroups:
            raise Refused.of(os_error(errno.ENOENT), path, "mkdir")
        self._make_cgroup(path[len(CGROUP) :])
        self.note_write(f"mkdir {path}")

    def remove_directory(self, path: str) -> None:
        self._refuse(f"rmdir {path}", path, "rmdir")
        if self._populated(path[len(CGROUP) :]) or self.list(path):
            raise Refused.of(os_error(errno.EBUSY), path, "rmdir")
        self._remove_cgroup(path[len(CGROUP) :])
        self.note_write(f"rmdir {path}")

    def write(self, path: str, value: str, keep_open: bool = False) -> None:
        self._refuse(f"{path} = {value}", path, value)
        try:
            self._write(path, value)
        except OSError as error:
            raise Refused.of(error, path, value) from error
        self.note_write(f"{path} = {value}")

    def _write(self, path: str, value: str) -> None:
        directory, name = os.path.split(path)
        group = directory[len(CGROUP) :] or "/"
        match = re.match(r"/proc/irq/(\d+)\Z", directory)
        policy = re.match(CPUFREQ + r"/policy(\d+)\Z", directory)
        if directory.startswith(CGROUP) and group in self.cgroups:
            doors: Dict[str, Callable[[], None]] = {
                "cpuset.cpus": lambda: self._set_cpus(group, numbers(value)),
                "cpuset.cpus.partition": lambda: self._set_partition(group, value),
                "cgroup.subtree_control": lambda: self._set_controller(group, value),
                "cgroup.procs": lambda: self._move(group, int(value)),
            }
            if name not in doors:
                raise os_error(errno.ENOENT)
            doors[name]()
        elif match and int(match.group(1)) in self.irqs:
            if int(match.group(1)) in self.managed:
                raise os_error(errno.EIO)
            if not numbers(value) & self.online:
                raise os_error(errno.EINVAL)
            self.irqs[int(match.group(1))] = numbers(value)
        elif path == "/proc/irq/default_smp_affinity":
            bits = int(value.replace(",", ""), 16)
            self.default_irq = frozenset(n for n in range(8) if bits >> n & 1)
        elif policy and int(policy.group(1)) in self.governors:
            self._write_policy(int(policy.group(1)), name, value)
        elif path in ("/proc/sys/vm/drop_caches", f"{NODE}/node0/compact", f"{NODE}/node1/compact"):
            self.acted.append(path)
        else:
            raise os_error(errno.ENOENT)

    def _lock_preference(self, policy: int) -> None:
        if self.governors[policy] == "performance" and policy in self.preferences:
            self.preferences[policy] = "performance"

    def _write_policy(self, policy: int, name: str, value: str) -> None:
        if name == "scaling_governor":
            if value not in GOVERNORS:
                raise os_error(errno.EINVAL)
            self.governors[policy] = value
            self._lock_preference(policy)
        elif name == "energy_performance_preference" and policy in self.preferences:
            if self.governors[policy] == "performance" and value != "performance":
                raise os_error(errno.EBUSY)
            if value not in PREFERENCES:
                raise os_error(errno.EINVAL)
            self.preferences[policy] = value
        else:
            raise os_error(errno.ENOENT)

    def save(self, path: str, text: str, mode: int = 0o644) -> None:
        self._refuse(f"saved {path}", path, "a new version of the file")
        if path.startswith(OWN):
            descriptor = os.open(self.root + path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with open(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
        else:
            self._put(path, text.rstrip("\n"))
        self.note_write(f"saved {path}")

    def remove(self, path: str) -> None:
        if path.startswith(OWN):
            super().remove(path)
        elif self.files.pop(path, None) is not None:
            self.note_write(f"removed {path}")

    def remove_empty(self, path: str) -> None:
        if path in self.folders and not self.list(path):
            self.folders.remove(path)
            self.note_write(f"removed {path}")

    def set_affinity(self, thread: int, cpus: Cpus) -> None:
        task = self.threads.get(thread)
        if task is None:
            raise Skipped("the thread has ended")
        if task.flags & FIXED or not cpus & self.room(task.cgroup):
            raise Skipped("the kernel keeps this thread's affinity (Invalid argument)")
        task.cpus = cpus & self.room(task.cgroup)
        task.asked = cpus
        self.note_write(f"affinity of thread {thread}")

    # What a test sees

    def snapshot(self) -> Dict[str, Any]:
        """Every setting of this host, to compare."""
        seen: Dict[str, Any] = {}
        for path in self.cgroups:
            base = CGROUP + ("" if path == "/" else path)
            for name in ("cpuset.cpus", "cpuset.cpus.effective", "cpuset.mems", "cpuset.cpus.partition"):
                seen[f"{base}/{name}"] = self._cgroup_file(f"{base}/{name}")
            seen[f"{base}/cgroup.subtree_control"] = self._cgroup_file(f"{base}/cgroup.subtree_control")
        seen.update({f"/proc/irq/{number}": text_of(cpus) for number, cpus in self.irqs.items()})
        seen["/proc/irq/default"] = text_of(self.default_irq)
        seen.update({f"governor {policy}": value for policy, value in self.governors.items()})
        seen.update({f"preference {policy}": value for policy, value in self.preferences.items()})
        for number, task in self.threads.items():
            seen[f"thread {number}"] = (task.start, task.cgroup, text_of(task.cpus))
        seen.update({f"property {unit} {prop}": text_of(v) for (unit, prop), v in self.properties.items() if v})
        seen.update(self.files)
        seen.update({path: "directory" for path in self.folders if path.startswith("/run/systemd/")})
        return seen


@contextlib.contextmanager
def booted(baseline: Baseline = STOCK) -> Iterator[FakeKernel]:
    """A fake host in a directory of its own."""
    with tempfile.TemporaryDirectory() as root:
        yield FakeKernel(root, baseline)
