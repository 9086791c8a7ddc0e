# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Threads: which one it is, whether it may be moved, and the CPUs it is bound to.

Source: proc(5) for /proc/PID/stat; include/linux/sched.h for the flags.
"""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional, Tuple

from ..text.cpus import format_list, parse_list
from .host import Host
from .kind import Kind

PF_KTHREAD = 0x00200000
# The thread's affinity is fixed by the kernel: per-CPU kernel threads, kworkers.
PF_NO_SETAFFINITY = 0x04000000


SCHED_DEADLINE = 6


class Task(NamedTuple):
    """What tells one task from another. Ids of its parent, process group and session are those of processes."""

    id: int
    start: int  # when it began, in clock ticks since boot: with its id, the one name that is never used again
    flags: int
    parent: int
    group: int
    session: int
    policy: int
    has_ended: bool  # and is there until it is waited for: as a process, other threads of it may live

    @property
    def name(self) -> str:
        """`ID:START`."""
        return f"{self.id}:{self.start}"

    @property
    def is_kernel_thread(self) -> bool:
        """Whether it is the kernel's own."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def is_bound(self) -> bool:
        """Whether the kernel fixes its affinity, and with it its cgroup."""
        return bool(self.flags & PF_NO_SETAFFINITY)


def read_task(host: Host, task: int) -> Optional[Task]:
    """A thread, or the process of that id; None where it has ended."""
    text = host.read(f"/proc/{task}/stat")
    if not text:
        return None
    # From the third field on: the second, the name, may hold anything.
    fields = text[text.rindex(")") + 2 :].split()
    parent, group, session = int(fields[1]), int(fields[2]), int(fields[3])
    return Task(task, int(fields[19]), int(fields[6]), parent, group, session, int(fields[38]), fields[0] in "ZX")


def start_time(host: Host, task: int) -> Optional[int]:
    """When a task began, in clock ticks since boot; None where it has ended."""
    found = read_task(host, task)
    return found.start if found else None


def leader(host: Host, thread: int) -> int:
    """The process of a thread; 0 where it has ended."""
    match = re.search(r"^Tgid:\s*(\d+)", host.read(f"/proc/{thread}/status") or "", re.MULTILINE)
    return int(match.group(1)) if match else 0


def why_unmovable(host: Host, task: int) -> Optional[str]:
    """Why a task whose move was refused cannot be moved; None where it could be."""
    found = read_task(host, task)
    if found is None:
        return "it has ended"
    if found.is_kernel_thread:
        return "the kernel keeps this thread of its own where it is"
    return "a task of SCHED_DEADLINE keeps its CPUs" if found.policy == SCHED_DEADLINE else None


class Affinity(Kind):
    """`task.affinity:TID:START`: the CPUs that one thread may run on."""

    family = "cgroup"
    volatile = True

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, name: str) -> Optional[str]:
        """The affinity; None where the thread has ended, or another has its number now."""
        thread, start = (int(part) for part in name.split(":"))
        cpus = self._host.affinity(thread)
        if cpus is None or start_time(self._host, thread) != start:
            return None
        return format_list(cpus)

    def write(self, name: str, value: str) -> None:
        """Bind the thread."""
        self._host.set_affinity(int(name.split(":")[0]), parse_list(value))

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """Behind all that makes the kernel reset it: cpusets, moves, the controller's end."""
        return [(14, new)]

    def where(self, name: str) -> str:
        """What to name in a message."""
        return f"the affinity of thread {name.split(':')[0]}"

    def valid_name(self, name: str) -> bool:
        """Thread id and start time, in clock ticks since boot."""
        thread, _colon, start = name.partition(":")
        return thread.isdigit() and start.isdigit()
