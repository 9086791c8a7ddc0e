# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The settings of a cgroup on v2 as resources: controller, lists, partition.

Source: Documentation/admin-guide/cgroup-v2.rst, section Cpuset.
"""

from __future__ import annotations

import errno
from typing import Callable, Dict, List, Optional, Set, Tuple

from ..errors import Refused, Skipped
from ..model import Address
from ..text.cgroup_path import parent_of
from ..text.cpus import format_list, parse_list
from .cgroup_v2 import PARTITION_FILE, CgroupsV2
from .cpuset import (
    ALLOWED_CPUS,
    ALLOWED_MEMORY_NODES,
    CONTROLLER,
    CPU_SET_PARTITION,
    CPUS,
    MEMS,
    PARTITION,
    CgroupKind,
    ListKind,
)
from .kind import Kind
from .stages import Stage, Write
from .systemd import PARTITION_PROPERTY, PARTITION_TYPES, RuntimeDropIn
from .topology import CPU

EMPTIES_NO_LIST = "the kernel empties no list of a cgroup with tasks"


class KindV2(CgroupKind):
    """A setting that only cgroup v2 has."""

    def __init__(self, cgroups: CgroupsV2) -> None:
        super().__init__(cgroups)
        self._cgroups: CgroupsV2 = cgroups


class Controller(KindV2):
    """`cgroup.controller:/`: whether the cpuset controller is enabled for the children of a cgroup."""

    rewritten_with_cpusets = True
    held_when_right = True

    def read(self, name: str) -> Optional[str]:
        """Enabled or disabled."""
        enabled = self._cgroups.read(name, "cgroup.subtree_control").split()
        return "enabled" if "cpuset" in enabled else "disabled"

    def write(self, name: str, value: str) -> None:
        """Enable or disable it."""
        if value == "disabled":
            # systemd disables the controller by itself once no unit asks for it.
            self._cgroups.systemd.reload_if_due()
            if self.read(name) == value:
                return
            holder = next((c for c in self._cgroups.children(name) if self._in_use(c)), None)
            if holder:
                raise Skipped(f"{holder} has a cpuset of its own")
        self._cgroups.host.write(self.where(name), "+cpuset" if value == "enabled" else "-cpuset")

    def _in_use(self, child: str) -> bool:
        return bool(
            self.read(child) == "enabled" or self._cgroups.cpus(child) or self._cgroups.read(child, "cpuset.mems")
        )

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """Enabled from the root down, disabled from the leaves up; one that is to stay enabled, after systemd."""
        depth = self._depth(name) if name != "/" else 0
        if new == "disabled":
            return [Write(Stage.DISABLE_CONTROLLER, new, -depth)]
        return [Write(Stage.KEEP_CONTROLLER if old == new else Stage.ENABLE_CONTROLLER, new, depth)]

    def where(self, name: str) -> str:
        """The file."""
        return self._cgroups.file(name, "cgroup.subtree_control")

    def valid_value(self, value: str) -> bool:
        """Enabled or disabled."""
        return value in ("enabled", "disabled")


class CpusetList(ListKind):
    """`cgroup.cpus:/user.slice`, `cgroup.mems:...`: the configured list, empty if it is inherited.

    The configured list, not the effective one: restoring the latter would make an inherited list explicit.
    """

    def __init__(self, cgroups: CgroupsV2, file: str, prop: str) -> None:
        super().__init__(cgroups, file)
        self._cgroups: CgroupsV2 = cgroups
        self._prop = prop
        self._set: Set[Tuple[str, str]] = set()

    def write(self, name: str, value: str) -> None:
        """Set the list, through systemd if the cgroup is a unit's."""
        if not value and (name, self._file) in self._cgroups.emptied:
            self._make_inherited(name)
            return
        if self._cgroups.is_partition(name):
            self._cgroups.free_cpus(name, parse_list(value))
        if not value and self.read(name):
            self._widen(name)
        unit = self._cgroups.owner(name)
        if unit and (name, value) in self._set:
            self._write_behind_systemd(name, value)
        elif unit:
            self._set.add((name, value))
            self._cgroups.systemd.set_property(unit, self._prop, value)
        elif value:
            self._cgroups.host.write(self.where(name), value)
        (self._cgroups.emptied.discard if value else self._cgroups.emptied.add)((name, self._file))

    def _widen(self, name: str) -> None:
        """Empty a list, or have it hold all, as the threads may not be reset any more when the controller goes away.

        systemd switches it off if no unit needs it. Since Linux 6.2, cpuset_attach() resets none of the threads if the
        first one of all comes from a cgroup whose CPUs stay the same.
        """
        try:
            self._cgroups.host.write(self.where(name), "")
        except Refused as refused:
            if refused.code != errno.ENOSPC:
                raise
            everything = self._cgroups.read(parent_of(name), f"{self._file}.effective")
            self._cgroups.host.write(self.where(name), everything)

    def _write_behind_systemd(self, name: str, value: str) -> None:
        """Write a list directly, because systemd dropped it: before, too, it was set without systemd."""
        parent = self._cgroups.file(parent_of(name), "cgroup.subtree_control")
        if "cpuset" not in (self._cgroups.host.read(parent) or "").split():
            self._cgroups.host.write(parent, "+cpuset")
        self._cgroups.host.write(self.where(name), value)

    def _make_inherited(self, name: str) -> None:
        if not self._cgroups.inherit_again(parent_of(name)):
            everything = self._cgroups.read("/", f"{self._file}.effective")
            self._cgroups.host.write(self.where(name), everything)
            raise Skipped(f"{EMPTIES_NO_LIST}: it holds all of {everything} now")

    def why_not(self, name: str, new: str, to_come: Callable[[Address], str]) -> Optional[str]:
        """The same, as far as it is known before."""
        parent = parent_of(name)

        def stays_partition(path: str) -> bool:
            now, then = self._cgroups.read(path, PARTITION_FILE), to_come(Address(PARTITION, path))
            # One that is invalid is dissolved before it is formed anew, see `Partition.writes`.
            return now not in ("", "member") and then != "member" and ("invalid" not in now or then == now)

        if new or not self._cgroups.populated(name) or to_come(Address(CONTROLLER, parent)) != "enabled":
            return None
        return None if self._cgroups.may_inherit_again(parent, stays_partition) else EMPTIES_NO_LIST

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """First all lists shrink to what they keep, or let go of all they had; then partitions grow, then siblings.

        So no CPU is ever in the lists of a partition and of its sibling, which would invalidate the partition. An empty
        list has no CPU, so it grows. A list that is to be empty usually goes away with the controller, when systemd
        finds that no unit needs it; if the controller stays, a second write comes late. It also comes if systemd
        dropped a list.
        """
        before, after = parse_list(old), parse_list(new)
        kept = before & after
        again = Write(Stage.WRITE_LIST_AGAIN, new)
        if after and kept == after:
            return [Write(Stage.SHRINK_TO_KEPT, new), again]
        is_partition = self._cgroups.is_partition(name)
        if before and not kept and not is_partition:
            return [Write(Stage.LET_GO, new), again]
        shrunk = [Write(Stage.SHRINK_TO_KEPT, format_list(kept))] if kept not in (frozenset(), before) else []
        return [*shrunk, Write(Stage.GROW_PARTITION if is_partition else Stage.GROW_LIST, new), again]


class Partition(KindV2):
    """`cgroup.partition:/machine.slice`: member, root or isolated; `isolated invalid (reason)` if the kernel
    invalidated the partition."""

    affected_by_family = True

    def read(self, name: str) -> Optional[str]:
        """The partition's state, with the kernel's reason if it is invalid.

        Since Linux 7.0 the kernel calls a partition valid that lacks CPUs which others have: that is no partition here.
        """
        state = self._cgroups.read(name, PARTITION_FILE) or "member"
        granted = self._cgroups.read(name, "cpuset.cpus.exclusive.effective")
        if state not in ("root", "isolated") or not granted:
            return state
        online = parse_list(self._cgroups.host.read(f"{CPU}/online") or "")
        missing = (self._cgroups.cpus(name) & online) - parse_list(granted)
        return f"{state} invalid (CPUs {format_list(missing)} are exclusive to others)" if missing else state

    def write(self, name: str, value: str) -> None:
        """Set the partition type, through systemd if that has a property for it."""
        kind = value.split()[0]
        if kind != "member":
            self._cgroups.free_cpus(name, self._cgroups.cpus(name))
        unit = self._cgroups.owner(name)
        if unit and self._cgroups.systemd.has_partitions():
            self._cgroups.systemd.set_property(unit, PARTITION_PROPERTY, kind)
        else:
            self._cgroups.host.write(self.where(name), kind)

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """Dissolved before any list changes, formed after all have. root and isolated change into each other in place.

        An invalid one must be dissolved first: on 6.1, writing its type again changes nothing.
        """
        dissolve = [Write(Stage.DISSOLVE_PARTITION, "member")] if new == "member" or "invalid" in old else []
        return dissolve + ([Write(Stage.FORM_PARTITION, new)] if new != "member" else [])

    def where(self, name: str) -> str:
        """The file."""
        return self._cgroups.file(name, PARTITION_FILE)

    def valid_value(self, value: str) -> bool:
        """A type, with or without the kernel's note."""
        return value.split(" ")[0] in PARTITION_TYPES and "\n" not in value

    def explain(self, name: str, wanted: str, now: Optional[str]) -> str:
        """The kernel accepts a type, and says afterwards why the partition is not valid."""
        if now and now.startswith(f"{wanted} invalid"):
            return f"{self.where(name)}: the kernel made the partition {now}"
        return super().explain(name, wanted, now)


def kinds(cgroups: CgroupsV2) -> Dict[str, Kind]:
    """The kinds of cgroup v2, by the prefix of their addresses."""
    return {
        CONTROLLER: Controller(cgroups),
        CPUS: CpusetList(cgroups, "cpuset.cpus", "AllowedCPUs"),
        MEMS: CpusetList(cgroups, "cpuset.mems", "AllowedMemoryNodes"),
        PARTITION: Partition(cgroups),
        ALLOWED_CPUS: RuntimeDropIn(cgroups.systemd, "AllowedCPUs"),
        ALLOWED_MEMORY_NODES: RuntimeDropIn(cgroups.systemd, "AllowedMemoryNodes"),
        CPU_SET_PARTITION: RuntimeDropIn(cgroups.systemd, PARTITION_PROPERTY),
    }
