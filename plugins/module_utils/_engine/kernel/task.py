# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Tasks, which are processes and threads: which one it is, whether it may be moved, and the CPUs it is bound to.

Source: proc(5) for /proc/PID/stat; include/linux/sched.h for the flags.
"""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional

from ..errors import Skipped
from ..text.cpus import CpuSet, format_list, is_number, parse_list
from .host import Host
from .kind import Kind
from .stages import Stage, Write
from .topology import SysfsTopology

PF_KTHREAD = 0x00200000
KTHREADD = 2  # the parent of all other kernel threads
# The thread's affinity is fixed by the kernel: per-CPU kernel threads, kworkers.
PF_NO_SETAFFINITY = 0x04000000
SCHED_DEADLINE = 6

NUMBERS = 1 << 31  # of tasks: those that fit the pid_t of a system call; 0 is the caller


class TaskId(NamedTuple):
    """The only identity of a task that is never reused: its number and its start time."""

    number: int  # of a process or thread
    start: int  # in clock ticks since boot

    def __str__(self) -> str:
        return f"{self.number}:{self.start}"

    @classmethod
    def parse(cls, text: str) -> Optional[TaskId]:
        """`NUMBER:START`; None if this is not one."""
        number, _colon, start = text.partition(":")
        if not (is_number(number) and is_number(start)) or not 0 < int(number) < NUMBERS:
            return None
        return cls(int(number), int(start))


class Task(NamedTuple):
    """A process or thread. Its parent, process group and session are numbers of processes."""

    id: TaskId
    flags: int
    parent: int
    group: int
    session: int
    policy: int
    has_ended: bool  # and exists until its parent waits for it; if it is a process, other threads of it may still run

    @property
    def number(self) -> int:
        """Its number, as long as it lives."""
        return self.id.number

    @property
    def name(self) -> str:
        """Its name in an address."""
        return str(self.id)

    @property
    def is_kernel_thread(self) -> bool:
        """Whether it is the kernel's own."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def is_bound(self) -> bool:
        """Whether the kernel fixes its affinity, and with it its cgroup."""
        return bool(self.flags & PF_NO_SETAFFINITY)


def read_task(host: Host, task: int) -> Optional[Task]:
    """The thread or process with a number; None if it has ended."""
    text = host.read(f"/proc/{task}/stat")
    if not text:
        return None
    # From the third field on: the second, the name, may contain anything.
    fields = text[text.rindex(")") + 2 :].split()
    parent, group, session = int(fields[1]), int(fields[2]), int(fields[3])
    id_ = TaskId(task, int(fields[19]))
    return Task(id_, int(fields[6]), parent, group, session, int(fields[38]), fields[0] in "ZX")


def identify(host: Host, task: int) -> Optional[TaskId]:
    """The id of the task that has a number now; None if it has ended."""
    found = read_task(host, task)
    return found.id if found else None


def program(host: Host, name: str) -> str:
    """What the task that an address names `NUMBER:START` runs, such as `psimon`; empty if it has ended."""
    return host.read(f"/proc/{name.partition(':')[0]}/comm") or ""


def argument(host: Host, process: int, option: str) -> str:
    """What follows an option on the command line of a process; empty if it has no such option, or has ended."""
    words = (host.read(f"/proc/{process}/cmdline") or "").split("\0")
    return dict(zip(words, words[1:])).get(option, "")


def leader(host: Host, thread: int) -> int:
    """The process of a thread; 0 if it has ended."""
    match = re.search(r"^Tgid:\s*(\d+)", host.read(f"/proc/{thread}/status") or "", re.MULTILINE)
    return int(match.group(1)) if match else 0


def affinity(host: Host, thread: int, offline: CpuSet) -> Optional[CpuSet]:
    """The CPUs that a thread is bound to, also those of `offline`; None if it has ended.

    sched_getaffinity(2) is quicker, and leaves out what is offline.
    """
    if not offline:
        return host.affinity(thread)
    match = re.search(r"^Cpus_allowed_list:\s*(\S+)", host.read(f"/proc/{thread}/status") or "", re.MULTILINE)
    return parse_list(match.group(1)) if match else None


def why_unmovable(host: Host, task: int) -> Optional[Skipped]:
    """Why a task whose move was refused cannot be moved; None if it could be."""
    found = read_task(host, task)
    if found is None:
        return Skipped("it has ended")
    if found.is_kernel_thread:
        return Skipped("the kernel keeps this thread of its own where it is", permanent=True)
    return Skipped("a task of SCHED_DEADLINE keeps its CPUs") if found.policy == SCHED_DEADLINE else None


class TaskKind(Kind):
    """A setting of one task; the name is `NUMBER:START`."""

    family = "cgroup"
    volatile = True
    records_given = True

    def __init__(self, host: Host) -> None:
        self._host = host

    @staticmethod
    def id_of(name: str) -> TaskId:
        """The task with a valid name."""
        found = TaskId.parse(name)
        if found is None:
            raise ValueError(f"{name!r} is not the name of a task")
        return found

    def valid_name(self, name: str) -> bool:
        """Number and start time."""
        return TaskId.parse(name) is not None


class Affinity(TaskKind):
    """`task.affinity:NUMBER:START`: the CPUs that one thread may run on."""

    records_request = True

    def __init__(self, host: Host, topology: SysfsTopology) -> None:
        super().__init__(host)
        self._topology = topology

    def read(self, name: str) -> Optional[str]:
        """The affinity; None if the thread has ended, or another one has its number now."""
        thread = self.id_of(name)
        cpus = affinity(self._host, thread.number, self._topology.offline())
        if cpus is None or identify(self._host, thread.number) != thread:
            return None
        return format_list(cpus)

    def write(self, name: str, value: str) -> None:
        """Bind the thread."""
        self._host.set_affinity(self.id_of(name).number, parse_list(value))

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """After all that makes the kernel reset it: cpusets, moves, disabling the controller; of kthreadd before, too.

        Before, the kernel refuses an affinity of which nothing is effective yet.
        """
        early = self.id_of(name).number == KTHREADD and parse_list(old) & parse_list(new)
        return [*([Write(Stage.BIND_KTHREADD, new)] if early else []), Write(Stage.BIND_THREAD, new)]

    def where(self, name: str) -> str:
        """What to name in a message."""
        return f"the affinity of thread {self.id_of(name).number}"
