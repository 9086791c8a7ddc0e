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

from ..errors import Refused, Skipped
from ..text.cgroup_path import parent_of
from ..text.cpus import format_list, parse_list
from .cgroup import FLAGS
from .cgroup_v1 import CgroupsV1
from .cpuset import CPUS, MEMS, CgroupKind, ListKind, flag_kind
from .kind import Kind
from .stages import Stage, Write

EXCLUSIVE = ("cpu_exclusive", "mem_exclusive")


class CpusetList(ListKind):
    """`cgroup.cpus:/host.slice`, `cgroup.mems:...`: the list; empty if the cpuset is new or does not exist."""

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
        """Give a cpuset that should go but stays all that it can have, not what a claim left it."""
        everything = format_list(self._cgroups.cpus(parent_of(name), self._file))
        with contextlib.suppress(Refused):  # if an exclusive cpuset is beside it
            self._cgroups.host.write(self.where(name), everything)
        now = format_list(self._cgroups.cpus(name, self._file))
        raise Skipped(
            f"the kernel empties no list of a cpuset that has tasks, or others below it: it holds {now} now"
        ) from None

    def _write_what_there_is(self, name: str, value: str, refused: Refused) -> None:
        """Write a list without what went offline: the kernel removed that from all cpusets for good."""
        available = parse_list(value) & self._cgroups.cpus(parent_of(name), self._file)
        gone = parse_list(value) - available
        if not available or not gone:
            raise refused
        self._cgroups.host.write(self.where(name), format_list(available))
        raise Skipped(f"{parent_of(name)} no longer has {format_list(gone)}, so this is {format_list(available)}")

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """Grow from the root down, then shrink from the leaves up: a cpuset's list is always part of its parent's.

        A cpuset below it that is removed later may keep it from shrinking until then. One that is to be empty is
        emptied when its tasks have left, and if the cpuset still exists.
        """
        before, after = parse_list(old), parse_list(new)
        both = before | after
        depth = self._depth(name)
        if not after:
            return [Write(Stage.EMPTY_NESTED, new, -depth)]
        grown = [Write(Stage.GROW_NESTED, format_list(both), depth)] if both != before else []
        if both == after:
            return [*grown, Write(Stage.REWRITE_NESTED, new, depth)]
        return [*grown, Write(Stage.SHRINK_NESTED, new, -depth), Write(Stage.SHRINK_AGAIN, new, -depth)]


class Flag(CgroupKind):
    """`cgroup.memory_migrate:/host.slice` and so on: `0` or `1`; empty if there is no such cpuset."""

    def __init__(self, cgroups: CgroupsV1, flag: str) -> None:
        super().__init__(cgroups)
        self._flag = flag

    def read(self, name: str) -> Optional[str]:
        """The flag; None if there is no such cpuset."""
        if not self._cgroups.exists(name):
            return None
        return self._cgroups.read(name, f"cpuset.{self._flag}")

    def write(self, name: str, value: str) -> None:
        """Set or clear it. A cpuset that should go but stays gets the value of a new one."""
        self._cgroups.host.write(self.where(name), value or FLAGS[self._flag])
        if not value:
            raise Skipped("its cpuset is not empty, so it stays")

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """Exclusive means without overlap, and only below a parent that is: given up early, leaves first; set late.

        Memory migrates when lists change and tasks arrive: switched on before, off after.
        """
        depth = self._depth(name)
        give_up, reset = Write(Stage.GIVE_UP_EXCLUSIVE, "0", -depth), Write(Stage.RESET_FLAG, new)
        if not new:
            return [give_up, reset] if self._flag in EXCLUSIVE and old == "1" else [reset]
        if self._flag == "memory_migrate":
            return [Write(Stage.MIGRATE_MEMORY, new) if new == "1" else reset]
        return [give_up] if new == "0" and old else [Write(Stage.SET_FLAG, new, depth)]

    def where(self, name: str) -> str:
        """The file."""
        return self._cgroups.file(name, f"cpuset.{self._flag}")

    def valid_value(self, value: str) -> bool:
        """Set, clear, or empty for a cpuset that did not exist."""
        return value in ("0", "1", "")


def kinds(cgroups: CgroupsV1) -> Dict[str, Kind]:
    """The kinds of cgroup v1, by the prefix of their addresses."""
    lists: Dict[str, Kind] = {CPUS: CpusetList(cgroups, "cpuset.cpus"), MEMS: CpusetList(cgroups, "cpuset.mems")}
    return {**lists, **{flag_kind(flag): Flag(cgroups, flag) for flag in FLAGS}}
