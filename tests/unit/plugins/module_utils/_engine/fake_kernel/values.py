# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all parts of the model are made of: CPU lists, errors, paths, and how a host begins."""

from __future__ import annotations

import os
import re
from typing import FrozenSet, NamedTuple, Optional, Set, Tuple

Cpus = FrozenSet[int]

CGROUP = "/sys/fs/cgroup"
OWN = "/run/vfio-isolation"

KERNEL_THREAD = 0x00200000
FIXED = 0x04000000
DEADLINE = 6  # the number of the scheduling policy


def numbers(text: str) -> Cpus:
    """What a list such as `0-3,6` holds."""
    found: Set[int] = set()
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

    `file`: the unit file, `override`: systemctl edit, `persistent` or `runtime`: set-property. Drop-ins of a later name
    in other places: `generator`, `vendor`, `prefix` (of all units whose names begin alike), `type` (of all units of its
    type), `alias` (of another name of it). `hiding`: one of the name that set-property uses, in the first place.
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
    isolated_only: bool = False  # since Linux 7.0: kernel threads follow partitions of type isolated only
    refuses_by_mode: bool = False  # newer kernels: a managed interrupt's file is read-only
    resets: bool = True  # since systemd 254: the drop-in of set-property resets what others list
    partitions: bool = False  # since systemd 261: the partition type is a property of a unit
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


STOCK = Baseline()
