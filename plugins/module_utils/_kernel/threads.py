# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Threads: which one it is, whether it may be moved, and the CPUs it is bound to.

Source: proc(5) for /proc/PID/stat; include/linux/sched.h for the flags.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

from .._cpus import format_list, parse_list
from .host import Host
from .kind import Kind

PF_KTHREAD = 0x00200000
# The thread's affinity is fixed by the kernel: per-CPU kernel threads, kworkers.
PF_NO_SETAFFINITY = 0x04000000


def _stat(host: Host, thread: int) -> Optional[List[str]]:
    """The fields of /proc/THREAD/stat from the third on: the second, the name, may hold anything."""
    text = host.read(f"/proc/{thread}/stat")
    return text[text.rindex(")") + 2 :].split() if text else None


def start_time(host: Host, thread: int) -> Optional[int]:
    """When a thread began, in clock ticks since boot: with its id, the one name that is never used again."""
    fields = _stat(host, thread)
    return int(fields[19]) if fields else None


def is_kernel_thread(host: Host, thread: int) -> bool:
    """Whether a thread is the kernel's own."""
    fields = _stat(host, thread)
    return bool(fields and int(fields[6]) & PF_KTHREAD)


def identify(host: Host, thread: int) -> Optional[Tuple[str, bool]]:
    """A thread's `TID:START`, and whether its affinity can be set at all; None where it has ended."""
    fields = _stat(host, thread)
    if not fields:
        return None
    return f"{thread}:{fields[19]}", not int(fields[6]) & PF_NO_SETAFFINITY


class Affinity(Kind):
    """`task.affinity:TID:START`: the CPUs that one thread may run on."""

    family = "cgroup"
    restless = True

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
