# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Threads: who they are, and the CPUs that they asked for and have."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import (
    Difference,
    Part,
    Parts,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    FIXED,
    KERNEL_THREAD,
    Baseline,
    Cpus,
    text_of,
)


class Thread:
    """One thread; each is its own process here. `room` is what its cpuset leaves it."""

    def __init__(self, start: int, cgroup: str, flags: int) -> None:
        self.start = start
        self.cgroup = cgroup
        self.flags = flags
        self.policy = 0
        self.parent = 1
        self.cpus: Cpus = frozenset()
        self.asked: Optional[Cpus] = None

    def begin(self, asked: Cpus, effective: Cpus) -> None:
        """Ask for CPUs for the first time."""
        if self.flags & FIXED:
            self.cpus = asked
            return
        self.cpus = (asked & effective) or effective
        if asked & effective and self.cpus != effective:
            self.asked = asked

    def ask(self, cpus: Cpus, effective: Cpus) -> bool:
        """Ask for CPUs, as sched_setaffinity(2) does; False where the kernel refuses it."""
        if self.flags & FIXED or not cpus & effective:
            return False
        self.cpus = cpus & effective
        self.asked = cpus
        return True

    def reset(self, effective: Cpus, remembers: bool) -> None:
        """The CPUs of its cpuset have changed."""
        if self.flags & FIXED:
            return
        asked = self.asked if remembers and not self.flags & KERNEL_THREAD else None
        self.cpus = (asked & effective if asked else frozenset()) or effective


class Threads(Part):
    """The threads by id, as in /proc."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self.threads: Dict[int, Thread] = {}

    def read(self, path: str) -> Optional[str]:
        match = re.match(r"/proc/(\d+)/(\w+)\Z", path)
        task = self.threads.get(int(match.group(1))) if match else None
        if match is None or task is None:
            return None
        thread, name = match.groups()
        if name == "cgroup":
            return f"0::{task.cgroup}"
        if name == "status":
            return f"Name: x\nTgid:\t{thread}\nPid:\t{thread}\nCpus_allowed_list:\t{text_of(task.cpus)}"
        fields = ["S", str(task.parent), thread, thread, "0", "-1", str(task.flags)] + ["0"] * 12
        fields += [str(task.start)] + ["0"] * 18 + [str(task.policy)] + ["0"] * 11
        return f"{thread} (a ) b) {' '.join(fields)}" if name == "stat" else None

    def list(self, path: str) -> Optional[List[str]]:
        match = re.match(r"/proc/(\d+)/task\Z", path)
        return [match.group(1)] if match and int(match.group(1)) in self.threads else None

    def snapshot(self) -> Dict[str, Any]:
        return {f"thread {n}": (task.start, task.cgroup, text_of(task.cpus)) for n, task in self.threads.items()}

    @staticmethod
    def address(seen: Difference) -> Optional[str]:
        kind, _space, number = seen.line.partition(" ")
        return f"task.affinity:{number}:{seen.old[0]}" if kind == "thread" and seen.old else None
