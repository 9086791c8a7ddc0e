# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The cgroup hierarchy that has the cpuset controller, of whichever version: its paths, its files, its tasks.

Sources: Documentation/admin-guide/cgroup-v2.rst, Documentation/admin-guide/cgroup-v1/cpusets.rst, cgroups(7).
"""

from __future__ import annotations

from typing import Iterator, List, Optional, Tuple

from ..errors import IsolationError
from ..text.cgroup_path import is_within, parent_of
from ..text.cpus import CpuSet, parse_list
from .host import Host
from .systemd import Systemd

# What v1 has besides lists: the flags of the module cpuset, each in the file `cpuset.FLAG`, with the initial value.
FLAGS = {
    "cpu_exclusive": "0",
    "mem_exclusive": "0",
    "mem_hardwall": "0",
    "memory_migrate": "0",
    "sched_load_balance": "1",
}


class Cgroups:
    """The cgroups of one hierarchy. Paths begin with `/`, the root of what is mounted: in a container, not all of it.

    This class itself is for a host without a cpuset controller.
    """

    version = 0
    # Whether a cgroup without a list of its own has its parent's CPUs.
    inherits = True
    # The file that lists what can be moved on its own.
    movable = "cgroup.procs"
    effective_file = "cpuset.cpus.effective"

    def __init__(self, host: Host, systemd: Systemd, mount: str = "", root: str = "/", controllers: str = "") -> None:
        self.host = host
        self.systemd = systemd
        self._mount = mount
        self._root = root.rstrip("/")
        self._controllers = controllers  # the hierarchy's name in /proc/PID/cgroup

    @property
    def is_whole(self) -> bool:
        """Whether all of the hierarchy is mounted here, not only a part of it."""
        return not self._root

    def file(self, cgroup: str, name: str = "") -> str:
        """The path of a cgroup's directory, or of a file in it."""
        if not self.version:
            raise IsolationError("this kernel has no cgroup with a cpuset controller; enable CONFIG_CPUSETS")
        return f"{self._mount}{'' if cgroup == '/' else cgroup}{'/' if name else ''}{name}"

    def exists(self, cgroup: str) -> bool:
        """Whether this cgroup exists."""
        return self.host.exists(self.file(cgroup, "cgroup.procs"))

    def read(self, cgroup: str, name: str) -> str:
        """The text of a cgroup's file; empty if it has none (the controller is off)."""
        return self.host.read(self.file(cgroup, name)) or ""

    def cpus(self, cgroup: str, name: str = "cpuset.cpus") -> CpuSet:
        """One of a cgroup's CPU lists."""
        return parse_list(self.read(cgroup, name))

    def effective(self, cgroup: str) -> CpuSet:
        """The effective CPUs of a cgroup; none if the controller is off."""
        return self.cpus(cgroup, self.effective_file)

    def effective_cpus(self, cgroup: str) -> CpuSet:
        """The same, but if the controller is off, those of the nearest ancestor that has them."""
        while cgroup != "/":
            own = self.effective(cgroup)
            if own:
                return own
            cgroup = parent_of(cgroup)
        return self.effective("/")

    def children(self, cgroup: str) -> List[str]:
        """The cgroups directly below one."""
        base = "" if cgroup == "/" else cgroup
        return [f"{base}/{name}" for name in self.host.directories(self.file(cgroup)) or ()]

    def walk(self, cgroup: str = "/") -> Iterator[Tuple[str, List[str]]]:
        """A cgroup and all below it, parents first, each with its children."""
        pending = [cgroup]
        while pending:
            path = pending.pop()
            children = self.children(path)
            yield path, children
            pending.extend(children)

    def tasks(self, cgroup: str) -> List[int]:
        """What of a cgroup, without those below it, can be moved: processes on v2, threads on v1."""
        # In a container, one outside of its process id namespace is 0.
        return [int(task) for task in self.read(cgroup, self.movable).split() if task != "0"]

    def threads(self, cgroup: str) -> List[int]:
        """The threads of a cgroup, without those below it."""
        raise NotImplementedError

    def threads_of(self, task: int) -> List[int]:
        """The threads that move with a task."""
        raise NotImplementedError

    def populated(self, cgroup: str) -> bool:
        """Whether anything runs in a cgroup or below it."""
        raise NotImplementedError

    def put(self, task: int, cgroup: str) -> None:
        """Move a task. Raises Refused."""
        self.host.write(self.file(cgroup, self.movable), str(task), keep_open=True)

    def place(self, task: int) -> Optional[str]:
        """The cgroup of a task; None if it has ended, or is outside of what is mounted here."""
        for line in (self.host.read(f"/proc/{task}/cgroup") or "").splitlines():
            _number, controllers, path = line.split(":", 2)
            if self._controllers in controllers.split(",") and is_within(path, self._root or "/"):
                return path[len(self._root) :] or "/"
        return None

    def owner(self, cgroup: str) -> Optional[str]:
        """The systemd unit that must be asked to change this cgroup; None if it is written directly."""
        return None

    def finish(self) -> List[str]:
        """Complete what a killed run left unfinished. Returns a sentence for each thing that still cannot be."""
        return []
