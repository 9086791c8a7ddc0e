# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's state as settings, read and given back by other code than the engine's.

A key is a word, a name and, for cpusets, the setting: `cpuset /user.slice cpus`, `irq 24`, `governor policy0`,
`affinity 812:1904 sleep`. A cgroup v2 without the controller has the values that it would have with it: empty lists.
`effective` values, and the `memory` of the set-up's processes, are no settings but follow from them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
from pathlib import Path

State = dict[str, str]

# Bound by the kernel itself: nobody else can set them.
PF_NO_SETAFFINITY = 0x04000000
V1_FLAGS = ("cpu_exclusive", "mem_exclusive", "mem_hardwall", "memory_migrate", "sched_load_balance")
CPUFREQ = "/sys/devices/system/cpu/cpufreq"
DROP_INS = ("/run/systemd/system.control", "/run/systemd/transient", "/etc/systemd/system.control")
EVENTS = ("drop_pagecache", "drop_slab", "compact_migrate_scanned", "compact_free_scanned")
PIDS = "/run/parity/pids"  # of the processes that a set-up started
MIGRATE_PAGES = 256  # system call, x86-64
UNIT = re.compile(r"\.(service|scope|mount|socket|timer|swap)(/|\Z)")
INTERRUPT_THREAD = re.compile(r"irq/\d+")


def read(path: str) -> str:
    """A file's text; nothing where there is none."""
    try:
        with open(path, errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def write(path: str, value: str) -> None:
    """Write a kernel file. Raises OSError."""
    with open(path, "w") as stream:
        stream.write(value)


def cpu_set(text: str) -> set[int]:
    """What a CPU list names."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _dash, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


def cpu_list(cpus: set[int]) -> str:
    """The CPU list of a set."""
    parts = []
    for cpu in sorted(cpus):
        if cpu - 1 not in cpus:
            last = cpu
            while last + 1 in cpus:
                last += 1
            parts.append(str(cpu) if last == cpu else f"{cpu}-{last}")
    return ",".join(parts)


class Hierarchy:
    """The cgroup hierarchy with the cpuset controller."""

    def __init__(self) -> None:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        first = [fields[1] for fields in mounts if fields[2] == "cgroup" and "cpuset" in fields[3].split(",")]
        self.version = 1 if first else 2
        cgroup2 = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), "")
        self.root = first[0] if first else cgroup2
        self.beside = cgroup2 if first else ""

    def paths(self) -> list[str]:
        """Every cgroup, parents first."""
        found = []
        for directory, _names, _files in os.walk(self.root):
            found.append(directory[len(self.root) :] or "/")
        return sorted(found, key=lambda path: (path.count("/"), path))

    def file(self, path: str, name: str) -> str:
        """A file of a cgroup."""
        return f"{self.root}{path.rstrip('/')}/{name}"

    def tasks(self, path: str) -> list[int]:
        """The threads (v1) or processes (v2) of a cgroup."""
        return [int(word) for word in read(self.file(path, "tasks" if self.version == 1 else "cgroup.procs")).split()]

    def put(self, task: int, path: str) -> None:
        """Move a thread (v1) or process (v2). Raises OSError."""
        write(self.file(path, "tasks" if self.version == 1 else "cgroup.procs"), str(task))

    def of(self, directory: str) -> str:
        """The cgroup of a thread, by its directory below /proc."""
        for line in read(f"{directory}/cgroup").splitlines():
            _number, controllers, path = line.split(":", 2)
            if ("cpuset" in controllers.split(",")) if self.version == 1 else not controllers:
                return path
        return ""

    def read(self, state: State) -> None:
        """Add the cgroups' settings to a state; on a hybrid host also which cgroups there are in the tree beside."""
        for name in os.listdir(self.beside) if self.beside else []:
            if os.path.isdir(f"{self.beside}/{name}"):
                state[f"cgroup2 {name}"] = "exists"
        for path in self.paths():
            state[f"cpuset {path} exists"] = "yes"
            for setting in ("cpus", "mems"):
                state[f"cpuset {path} {setting}"] = read(self.file(path, f"cpuset.{setting}"))
            if self.version == 1:
                for flag in V1_FLAGS:
                    state[f"cpuset {path} {flag}"] = read(self.file(path, f"cpuset.{flag}"))
                for setting in ("cpus", "mems"):
                    state[f"effective {path} {setting}"] = read(self.file(path, f"cpuset.effective_{setting}"))
                continue
            state[f"cpuset {path} partition"] = read(self.file(path, "cpuset.cpus.partition")) or "member"
            enabled = "cpuset" in read(self.file(path, "cgroup.subtree_control")).split()
            state[f"controller {path}"] = "enabled" if enabled else "disabled"
            above = path.rpartition("/")[0] or "/"
            for setting in ("cpus", "mems"):
                inherited = state.get(f"effective {above} {setting}", "")
                own = read(self.file(path, f"cpuset.{setting}.effective"))
                state[f"effective {path} {setting}"] = own or inherited


def snapshot(units: bool = False) -> State:
    """Everything that either tool could touch; with `units` also what systemd says of its slices."""
    state: State = {}
    hierarchy = Hierarchy()
    hierarchy.read(state)
    for number in filter(str.isdigit, os.listdir("/proc/irq")):
        state[f"irq {number}"] = read(f"/proc/irq/{number}/smp_affinity_list")
    state["irq default"] = read("/proc/irq/default_smp_affinity")
    for policy in os.listdir(CPUFREQ):
        if policy.startswith("policy"):
            state[f"governor {policy}"] = read(f"{CPUFREQ}/{policy}/scaling_governor")
    for root in DROP_INS:
        for directory, _names, files in os.walk(root):
            for name in files:
                state[f"file {directory}/{name}"] = read(f"{directory}/{name}")
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):
                _read_thread(state, hierarchy, f"/proc/{process}/task/{thread}")
    for pid in read(PIDS).split():
        state[f"memory {pid}"] = memory(int(pid))
    if units:
        names = [name for name in os.listdir("/sys/fs/cgroup") if name.endswith(".slice")] or ["-.slice"]
        command = ["systemctl", "show", "--all", "-p", "Id,AllowedCPUs,AllowedMemoryNodes,DropInPaths,NeedDaemonReload"]
        shown = subprocess.run([*command, "--", *sorted(names)], check=True, stdout=subprocess.PIPE, text=True).stdout
        for block in shown.strip().split("\n\n"):
            values = dict(line.split("=", 1) for line in block.splitlines())
            state[f"unit {values.pop('Id')}"] = str(sorted(values.items()))
    return state


def memory(pid: int) -> str:
    """The node that has most of a process's memory."""
    pages: dict[str, int] = {}
    for node, count in re.findall(r" N(\d+)=(\d+)", read(f"/proc/{pid}/numa_maps")):
        pages[node] = pages.get(node, 0) + int(count)
    return max(pages, key=pages.__getitem__, default="")


def _read_thread(state: State, hierarchy: Hierarchy, directory: str) -> None:
    stat = read(f"{directory}/stat")
    if not stat:
        return
    fields = stat[stat.rindex(")") + 2 :].split()
    task, name = int(directory.rpartition("/")[2]), stat[stat.index("(") + 1 : stat.rindex(")")]
    key = f"{task}:{fields[19]} {name}"
    state[f"place {key}"] = hierarchy.of(directory)
    if not int(fields[6]) & PF_NO_SETAFFINITY and not INTERRUPT_THREAD.match(name):
        with contextlib.suppress(ProcessLookupError):
            state[f"affinity {key}"] = cpu_list(os.sched_getaffinity(task))


def remembers_affinities() -> bool:
    """Whether this kernel keeps what a task requested when its cpuset changes."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) >= (6, 2)


def events() -> dict[str, int]:
    """How often memory was dropped, and how much of it was looked at for compaction, since boot."""
    counted = dict(line.split() for line in read("/proc/vmstat").splitlines())
    return {name: int(counted[name]) for name in EVENTS}


def differences(before: State, after: State) -> dict[str, tuple[str | None, str | None]]:
    """What differs: value before, value after. Threads and units that came or went say nothing."""
    found = {}
    for key in sorted({*before, *after}):
        was, now = before.get(key), after.get(key)
        comes_or_goes = was is None or now is None
        word, _space, name = key.partition(" ")
        if was == now or (comes_or_goes and (word in ("affinity", "place", "unit") or UNIT.search(name.split(" ")[0]))):
            continue
        found[key] = (was, now)
    return found


def settings(before: State, after: State) -> dict[str, tuple[str | None, str | None]]:
    """The differences that are settings of their own: no effective list, no affinity that just follows its cgroup's."""

    found = {}
    for key, values in differences(before, after).items():
        word, _space, name = key.partition(" ")
        if word in ("effective", "memory"):
            continue
        if word == "affinity" and _follows(before, name) and _follows(after, name):
            continue
        found[key] = values
    return found


def _follows(state: State, thread: str) -> bool:
    """Whether a thread has just the CPUs of its cgroup."""
    place = state.get(f"place {thread}", "/")
    return state[f"affinity {thread}"] == state.get(f"effective {place} cpus")


def reset(before: State, now: State) -> None:
    """Bring the host from one state back to another, by writing; drop-ins of systemd are not known here. Verified.

    Raises AssertionError where something stays different.
    """
    hierarchy = Hierarchy()
    for _attempt in range(3):
        wrong = differences(before, now)
        if not wrong:
            return
        if any(key.split()[0] in ("cpuset", "cgroup2", "controller", "effective") for key in wrong):
            _reset_existence(hierarchy, before)
            (_reset_v1 if hierarchy.version == 1 else _reset_v2)(hierarchy, before)
            now = snapshot()
        for key, (value, _now) in differences(before, now).items():
            word, name = key.split(" ", 1)
            number = name.split(":")[0]
            with contextlib.suppress(OSError):
                if word == "place":
                    hierarchy.put(int(number), str(value))
                elif word == "irq":
                    file = "default_smp_affinity" if name == "default" else f"{name}/smp_affinity_list"
                    write(f"/proc/irq/{file}", str(value))
                elif word == "memory":
                    _migrate(int(name), int(str(value)))
                elif word == "governor":
                    write(f"/sys/devices/system/cpu/cpufreq/{name}/scaling_governor", str(value))
        for key, (was, _now) in differences(before, now).items():
            word, thread = key.split(" ", 1)
            if word == "affinity":
                # All CPUs for a thread that was not bound: since 6.2 Linux remembers what is requested here.
                requested = before["effective / cpus"] if _follows(before, thread) else str(was)
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(int(thread.split(":")[0]), cpu_set(requested))
        now = snapshot()
    left = differences(before, now)
    assert not left, f"the ground could not be made the same again: {left}"


def _migrate(pid: int, node: int) -> None:
    """Move a process's memory back to a node."""
    everywhere, there = ctypes.c_ulong(0xFF), ctypes.c_ulong(1 << node)
    ctypes.CDLL(None).syscall(MIGRATE_PAGES, pid, 64, ctypes.byref(everywhere), ctypes.byref(there))


def _reset_existence(hierarchy: Hierarchy, before: State) -> None:
    there = hierarchy.paths()
    for path in reversed(there):
        if f"cpuset {path} exists" not in before and not UNIT.search(path):
            for task in hierarchy.tasks(path):
                with contextlib.suppress(OSError):
                    hierarchy.put(task, "/")
            with contextlib.suppress(OSError):
                os.rmdir(hierarchy.root + path)
    for name in os.listdir(hierarchy.beside) if hierarchy.beside else []:
        if f"cgroup2 {name}" not in before and not UNIT.search(name):
            with contextlib.suppress(OSError):
                os.rmdir(f"{hierarchy.beside}/{name}")
    for key in sorted(before):
        word, path, *setting = key.split(" ")
        if word == "cpuset" and setting == ["exists"] and path not in there and not UNIT.search(path):
            os.makedirs(hierarchy.root + path, exist_ok=True)


def _reset_v1(hierarchy: Hierarchy, before: State) -> None:
    """Exclusive flags off, lists from the root down, then the flags; twice, since a list may wait for a child's."""
    paths = [path for path in hierarchy.paths() if path != "/" and f"cpuset {path} exists" in before]
    for path in reversed(paths):
        for flag in ("cpu_exclusive", "mem_exclusive"):
            write(hierarchy.file(path, f"cpuset.{flag}"), "0")
    for _again in range(2):
        for path in paths:
            for setting in ("mems", "cpus"):
                with contextlib.suppress(OSError):
                    write(hierarchy.file(path, f"cpuset.{setting}"), before[f"cpuset {path} {setting}"] or "\n")
    for path in ["/", *paths]:
        for flag in V1_FLAGS:
            with contextlib.suppress(OSError):
                write(hierarchy.file(path, f"cpuset.{flag}"), before[f"cpuset {path} {flag}"])


def _reset_v2(hierarchy: Hierarchy, before: State) -> None:
    """Off everywhere and on again, since a list with tasks cannot be emptied otherwise."""
    paths = hierarchy.paths()
    for path in reversed(paths):
        with contextlib.suppress(OSError):
            write(hierarchy.file(path, "cgroup.subtree_control"), "-cpuset")
    for path in paths:
        for setting in ("cpus", "mems"):
            if before.get(f"cpuset {path} {setting}") and path != "/":
                write(hierarchy.file(path, f"cpuset.{setting}"), before[f"cpuset {path} {setting}"])
        if before.get(f"controller {path}") == "enabled":
            write(hierarchy.file(path, "cgroup.subtree_control"), "+cpuset")
