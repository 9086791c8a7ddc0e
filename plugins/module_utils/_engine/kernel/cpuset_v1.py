# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The settings of a cpuset on cgroup v1 as resources: lists and flags.

Source: Documentation/admin-guide/cgroup-v1/cpusets.rst.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Dict, List, Optional, Set, Tuple

from ..errors import Immovable, Refused
from ..text.cpus import format_list, parse_list
from .cgroup import FLAGS, parent_of
from .cgroup_v1 import CgroupsV1
from .cpuset import CgroupKind, ListKind
from .kind import Kind


class CpusetList(ListKind):
    """`cgroup.cpus:/host.slice`, `cgroup.mems:...`: the list; empty of a cpuset that is new or gone."""

    def __init__(self, cgroups: CgroupsV1, file: str) -> None:
        super().__init__(cgroups, file)
        self._later: Set[Tuple[str, str]] = set()

    def write(self, name: str, value: str) -> None:
        """Set the list."""
        try:
            self._cgroups.host.write(self.where(name), value)
        except Refused as refused:
            if not value and refused.code in (errno.ENOSPC, errno.EBUSY):
                self._widen(name)
            if refused.code in (errno.EBUSY, errno.EINVAL) and (name, value) not in self._later:
                # A cpuset below it that goes away, or an exclusive one beside it that shrinks, has the rest until then.
                self._later.add((name, value))
                return
            self._write_what_there_is(name, value, refused)

    def _widen(self, name: str) -> None:
        """Leave a cpuset that stays, though it was to go, with all that it can have, not with what a claim left it."""
        everything = format_list(self._cgroups.cpus(parent_of(name), self._file))
        with contextlib.suppress(Refused):  # an exclusive cpuset is beside it
            self._cgroups.host.write(self.where(name), everything)
        now = format_list(self._cgroups.cpus(name, self._file))
        raise Immovable(
            f"the kernel empties no list of a cpuset that has tasks, or others below it: it holds {now} now"
        ) from None

    def _write_what_there_is(self, name: str, value: str, refused: Refused) -> None:
        """Write a list without what went offline: the kernel has taken that out of all cpusets, for good."""
        there = parse_list(value) & self._cgroups.cpus(parent_of(name), self._file)
        gone = parse_list(value) - there
        if not there or not gone:
            raise refused
        self._cgroups.host.write(self.where(name), format_list(there))
        raise Immovable(f"{parent_of(name)} has {format_list(gone)} no more, so this is {format_list(there)}")

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """Grow from the root down, then shrink from the leaves up: a cpuset's list is part of its parent's at any time.

        A cpuset below it that goes away may keep it from shrinking until then. One that is to be empty is emptied when
        its tasks have left, and where the cpuset has not gone away.
        """
        before, after = parse_list(old), parse_list(new)
        both = before | after
        depth = self._depth(name) / 1000
        if not after:
            return [(12.4 - depth, new)]
        grown = [(3 + depth, format_list(both))] if both != before else []
        shrunk = [(5 - depth, new), (12.3 - depth, new)] if both != after else []
        return grown + (shrunk or [(5.5 + depth, new)])


class Flag(CgroupKind):
    """`cgroup.memory_migrate:/host.slice` and so on: `0` or `1`; empty of a cpuset that is not there."""

    def __init__(self, cgroups: CgroupsV1, flag: str) -> None:
        super().__init__(cgroups)
        self._flag = flag

    def read(self, name: str) -> Optional[str]:
        """The flag; None where there is no such cpuset."""
        if not self._cgroups.exists(name):
            return None
        return self._cgroups.read(name, f"cpuset.{self._flag}")

    def write(self, name: str, value: str) -> None:
        """Set or clear it. Of a cpuset that was to go and stays, it is what a new one has."""
        self._cgroups.host.write(self.where(name), value or FLAGS[self._flag])
        if not value:
            raise Immovable("something is in its cpuset, which stays")

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """Exclusive means without overlap, and only below a parent that is: given up early, leaves first; taken late.

        Memory migrates when lists change and tasks arrive: switched on before, off after.
        """
        depth = self._depth(name) / 1000
        if not new:
            exclusive = self._flag in ("cpu_exclusive", "mem_exclusive")
            return ([(1.0 - depth, "0")] if exclusive and old == "1" else []) + [(12.45, new)]
        early_and_late = {"memory_migrate": {"1": 2.0, "0": 12.45}}
        stages = early_and_late.get(self._flag, {"1": 6.0 + depth, "0": 1.0 - depth if old else 6.0})
        return [(stages[new], new)]

    def where(self, name: str) -> str:
        """The file."""
        return self._cgroups.file(name, f"cpuset.{self._flag}")

    def valid_value(self, value: str) -> bool:
        """Set, clear, or of a cpuset that was not there."""
        return value in ("0", "1", "")


def kinds(cgroups: CgroupsV1) -> Dict[str, Kind]:
    """The kinds of cgroup v1, by the prefix of their addresses."""
    lists = {f"cgroup.{name}": CpusetList(cgroups, f"cpuset.{name}") for name in ("cpus", "mems")}
    return {**lists, **{f"cgroup.{flag}": Flag(cgroups, flag) for flag in FLAGS}}
