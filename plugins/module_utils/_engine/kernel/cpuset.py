# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The settings of a cgroup that both versions have, as kinds: its existence, its lists, the place of a task."""

from __future__ import annotations

from typing import Iterable, List, Optional

from ..errors import Refused, Skipped
from ..model import Address
from ..text.cgroup_path import is_valid
from ..text.cpus import format_list
from .cgroup import Cgroups
from .kind import Kind
from .stages import Stage, Write
from .task import TaskKind, identify, why_unmovable

# The names of the kinds, here for both versions: a host loads the kinds of only one.
EXISTS = "cgroup.exists"
CPUS = "cgroup.cpus"
MEMS = "cgroup.mems"
CONTROLLER = "cgroup.controller"
PARTITION = "cgroup.partition"
ALLOWED_CPUS = "systemd.AllowedCPUs"
ALLOWED_MEMORY_NODES = "systemd.AllowedMemoryNodes"
CPU_SET_PARTITION = "systemd.CPUSetPartition"
TASK_CGROUP = "task.cgroup"
TASK_AFFINITY = "task.affinity"


def flag_kind(flag: str) -> str:
    """The name of the kind for one of v1's flags."""
    return f"cgroup.{flag}"


class CgroupKind(Kind):
    """A setting of one cgroup; the name is the cgroup's path."""

    family = "cgroup"
    resets_affinities = True
    adds_up = True

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups

    def valid_name(self, name: str) -> bool:
        """An absolute path that stays inside the hierarchy."""
        return is_valid(name)

    def depends_on(self, name: str) -> Optional[Address]:
        """The existence of the cgroup."""
        return Address(EXISTS, name)

    @staticmethod
    def _depth(name: str) -> int:
        return name.count("/")


class CgroupExistence(CgroupKind):
    """`cgroup.exists:/host.slice`: present or absent."""

    def read(self, name: str) -> Optional[str]:
        """Whether the cgroup exists: present or absent."""
        return "present" if self._cgroups.exists(name) else "absent"

    def write(self, name: str, value: str) -> None:
        """Create or remove it, through systemd if it is a unit."""
        unit = self._cgroups.owner(name)
        if value == "present":
            if unit:
                self._cgroups.systemd.start(unit)
            else:
                self._cgroups.host.make_directory(self.where(name))
            return
        if self._cgroups.children(name) or self._cgroups.populated(name):
            raise Skipped("something runs in it, so it stays")  # stopping a slice would stop the VMs in it
        if unit:
            self._cgroups.systemd.stop(unit)
        if self._cgroups.exists(name):  # also one that systemd does not know although its name is that of a unit
            self._cgroups.host.remove_directory(self.where(name))

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """Created early, parents first; removed late, children first."""
        depth = self._depth(name)
        return [Write(Stage.CREATE_CGROUP, new, depth) if new == "present" else Write(Stage.REMOVE_CGROUP, new, -depth)]

    def where(self, name: str) -> str:
        """The cgroup's directory."""
        return self._cgroups.file(name)

    def valid_value(self, value: str) -> bool:
        """Present or absent."""
        return value in ("present", "absent")

    def depends_on(self, name: str) -> Optional[Address]:
        """Nothing else."""
        return None


class ListKind(CgroupKind):
    """A CPU or node list of a cgroup: as configured, not the effective one, which follows from those above it."""

    def __init__(self, cgroups: Cgroups, file: str) -> None:
        super().__init__(cgroups)
        self._file = file

    def read(self, name: str) -> Optional[str]:
        """The configured list; None if there is no such cgroup."""
        if not self._cgroups.exists(name):
            return None
        return format_list(self._cgroups.cpus(name, self._file))

    def where(self, name: str) -> str:
        """The file."""
        return self._cgroups.file(name, self._file)


class TaskCgroup(TaskKind):
    """`task.cgroup:NUMBER:START`: the cgroup of a task, which is a process on v2 and a thread on v1."""

    reread_before_write = False
    resets_affinities = True

    def __init__(self, cgroups: Cgroups) -> None:
        super().__init__(cgroups.host)
        self._cgroups = cgroups

    def read(self, name: str) -> Optional[str]:
        """Its cgroup's path; None if it has ended, or another one has its number now."""
        task = self.id_of(name)
        return self._cgroups.place(task.number) if identify(self._host, task.number) == task else None

    def write(self, name: str, value: str) -> None:
        """Move it; on v2 with all its threads."""
        number = self.id_of(name).number
        try:
            self._cgroups.put(number, value)
        except Refused as refused:
            reason = why_unmovable(self._host, number)
            if reason:
                raise reason from None
            if not self._cgroups.exists(value):
                raise Skipped(f"its cgroup {value} is gone") from None
            raise refused

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """After the cpusets."""
        return [Write(Stage.MOVE_TASK, new)]

    def where(self, name: str) -> str:
        """The file that shows it."""
        return f"/proc/{self.id_of(name).number}/cgroup"

    def valid_value(self, value: str) -> bool:
        """A cgroup's path."""
        return is_valid(value)

    def moved_threads(self, name: str) -> Iterable[int]:
        """The task's threads."""
        return self._cgroups.threads_of(self.id_of(name).number)
