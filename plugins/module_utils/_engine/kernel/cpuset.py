# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The settings of a cgroup that both versions have, as resources: its existence, and the place of a task."""

from __future__ import annotations

from typing import List, Optional, Tuple

from ..errors import Immovable, Refused
from ..text.cpus import format_list
from .cgroup import Cgroups
from .kind import Kind
from .task import start_time, why_unmovable

# The stage at which tasks move: behind all that gives a cpuset its CPUs, before anything is taken away.
MOVES = 8.0


class CgroupKind(Kind):
    """A setting of one cgroup; the name is the cgroup's path."""

    family = "cgroup"

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups

    def valid_name(self, name: str) -> bool:
        """An absolute path that stays inside the hierarchy."""
        parts = name.split("/")[1:]
        return name == "/" or (
            name.startswith("/") and "\n" not in name and all(part not in ("", ".", "..") for part in parts)
        )

    def _depth(self, name: str) -> int:
        return name.count("/")


class CgroupExistence(CgroupKind):
    """`cgroup.exists:/host.slice`: present or absent."""

    def read(self, name: str) -> Optional[str]:
        """Whether the cgroup is there."""
        return "present" if self._cgroups.exists(name) else "absent"

    def write(self, name: str, value: str) -> None:
        """Create or remove it, through systemd where it is a unit."""
        unit = self._cgroups.owner(name)
        if value == "present":
            if unit:
                self._cgroups.systemd.start(unit)
            else:
                self._cgroups.host.make_directory(self.where(name))
            return
        if self._cgroups.children(name) or self._cgroups.populated(name):
            raise Immovable("something runs in it, so it stays")  # stopping a slice would stop the VMs in it
        if unit:
            self._cgroups.systemd.stop(unit)
        if self._cgroups.exists(name):  # also one that systemd does not know, though it has the name of a unit
            self._cgroups.host.remove_directory(self.where(name))

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """Created early, parents first; removed late, children first."""
        depth = self._depth(name) / 1000
        return [(1 + depth, new)] if new == "present" else [(12 - depth, new)]

    def where(self, name: str) -> str:
        """The cgroup's directory."""
        return self._cgroups.file(name)

    def valid_value(self, value: str) -> bool:
        """Present or absent."""
        return value in ("present", "absent")


class ListKind(CgroupKind):
    """A CPU or node list of a cgroup: the configured one, not the effective one, which follows from those above it."""

    def __init__(self, cgroups: Cgroups, file: str) -> None:
        super().__init__(cgroups)
        self._file = file

    def read(self, name: str) -> Optional[str]:
        """The configured list; None where there is no such cgroup."""
        if not self._cgroups.exists(name):
            return None
        return format_list(self._cgroups.cpus(name, self._file))

    def where(self, name: str) -> str:
        """The file."""
        return self._cgroups.file(name, self._file)


class TaskCgroup(CgroupKind):
    """`task.cgroup:ID:START`: the cgroup of a task, which is a process on v2 and a thread on v1."""

    volatile = True
    reread_before_write = False

    def read(self, name: str) -> Optional[str]:
        """Its cgroup's path; None where it has ended, or another has its number now."""
        task, start = (int(part) for part in name.split(":"))
        return self._cgroups.place(task) if start_time(self._cgroups.host, task) == start else None

    def write(self, name: str, value: str) -> None:
        """Move it; on v2 with all its threads."""
        task = int(name.split(":")[0])
        try:
            self._cgroups.put(task, value)
        except Refused as refused:
            reason = why_unmovable(self._cgroups.host, task)
            if reason:
                raise Immovable(reason) from None
            if not self._cgroups.exists(value):
                raise Immovable(f"its cgroup {value} is gone") from None
            raise refused

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """Behind the cpusets."""
        return [(MOVES, new)]

    def where(self, name: str) -> str:
        """The file that tells."""
        return f"/proc/{name.split(':')[0]}/cgroup"

    def valid_name(self, name: str) -> bool:
        """Process id and start time, in clock ticks since boot."""
        pid, _colon, start = name.partition(":")
        return pid.isdigit() and start.isdigit()

    def valid_value(self, value: str) -> bool:
        """A cgroup's path."""
        return super().valid_name(value)
