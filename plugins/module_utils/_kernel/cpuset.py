# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The settings of a cgroup as resources: existence, controller, lists, partition; and the place of a process.

Source: Documentation/admin-guide/cgroup-v2.rst, section Cpuset.
"""

from __future__ import annotations

import errno
from typing import List, Optional, Set, Tuple

from .._cpus import format_list, parse_list
from .._errors import Immovable, Refused
from .cgroup import PARTITION, Cgroups, parent_of
from .kind import Kind
from .threads import start_time


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


class Existence(CgroupKind):
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
        if self._cgroups.children(name) or "populated 1" in self._cgroups.read(name, "cgroup.events"):
            raise Immovable("something runs in it, so it stays")  # stopping a slice would stop the VMs in it
        if unit:
            self._cgroups.systemd.stop(unit)
        else:
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


class Controller(CgroupKind):
    """`cgroup.controller:/`: whether the cpuset controller is enabled for the children of a cgroup."""

    def read(self, name: str) -> Optional[str]:
        """Enabled or disabled."""
        enabled = self._cgroups.read(name, "cgroup.subtree_control").split()
        return "enabled" if "cpuset" in enabled else "disabled"

    def write(self, name: str, value: str) -> None:
        """Enable or disable it."""
        if value == "disabled":
            self._cgroups.systemd.settle()  # systemd takes the controller away by itself once no unit asks for it
            if self.read(name) == value:
                return
            holder = next((c for c in self._cgroups.children(name) if self._in_use(c)), None)
            if holder:
                raise Immovable(f"{holder} has a cpuset of its own")
        self._cgroups.host.write(self.where(name), "+cpuset" if value == "enabled" else "-cpuset")

    def _in_use(self, child: str) -> bool:
        return bool(
            self.read(child) == "enabled" or self._cgroups.cpus(child) or self._cgroups.read(child, "cpuset.mems")
        )

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """Enabled from the root down, disabled from the leaves up."""
        depth = self._depth(name) / 1000 if name != "/" else 0
        return [(2 + depth, new)] if new == "enabled" else [(13 - depth, new)]

    def where(self, name: str) -> str:
        """The file."""
        return self._cgroups.file(name, "cgroup.subtree_control")

    def valid_value(self, value: str) -> bool:
        """Enabled or disabled."""
        return value in ("enabled", "disabled")


class CpusetList(CgroupKind):
    """`cgroup.cpus:/user.slice`, `cgroup.mems:...`: the configured list, empty where it is inherited.

    The configured list, not the effective one: giving back the latter would make an inherited list explicit.
    """

    def __init__(self, cgroups: Cgroups, file: str, prop: str) -> None:
        super().__init__(cgroups)
        self._file = file
        self._prop = prop
        self._set: Set[Tuple[str, str]] = set()

    def read(self, name: str) -> Optional[str]:
        """The configured list; None where there is no such cgroup."""
        if not self._cgroups.exists(name):
            return None
        return format_list(self._cgroups.cpus(name, self._file))

    def write(self, name: str, value: str) -> None:
        """Set the list, through systemd where the cgroup is a unit's."""
        if not value and (name, self._file) in self._cgroups.emptied:
            self._insist_on_inheriting(name)
            return
        unit = self._cgroups.owner(name)
        if unit and (name, value) in self._set:
            self._write_behind_systemd(name, value)
        elif unit:
            self._set.add((name, value))
            self._cgroups.systemd.set_property(unit, self._prop, value)
        else:
            try:
                self._cgroups.host.write(self.where(name), value)
            except Refused as refused:
                if value or refused.code != errno.ENOSPC:
                    raise
        if not value:
            self._cgroups.emptied.add((name, self._file))

    def _write_behind_systemd(self, name: str, value: str) -> None:
        """Write a list that systemd was told and has dropped since: it had been written behind its back before, too."""
        parent = self._cgroups.file(parent_of(name), "cgroup.subtree_control")
        if "cpuset" not in (self._cgroups.host.read(parent) or "").split():
            self._cgroups.host.write(parent, "+cpuset")
        self._cgroups.host.write(self.where(name), value)

    def _insist_on_inheriting(self, name: str) -> None:
        if not self._cgroups.inherit_again(parent_of(name)):
            everything = self._cgroups.read("/", f"{self._file}.effective")
            self._cgroups.host.write(self.where(name), everything)
            raise Immovable(f"the kernel empties no list of a cgroup with tasks: it holds all of {everything} now")

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """First all lists shrink to what they keep, then partitions grow, then their siblings.

        So no CPU is ever in the lists of a partition and of its sibling, which would invalidate the partition. A list
        that is to be empty mostly goes away with the controller, when systemd finds that no unit needs it; where the
        controller stays, a second write comes late. It also comes where systemd has dropped a list.
        """
        before, after = parse_list(old), parse_list(new)
        kept = before & after
        late = [(12.8, new)]
        if not before or (after and kept == after):
            return [(3, new), *late]
        grow = 4 if self._cgroups.read(name, PARTITION) not in ("", "member") else 5
        shrunk = [(3.0, format_list(kept))] if kept not in (frozenset(), before) else []
        return [*shrunk, (grow, new), *late]

    def where(self, name: str) -> str:
        """The file."""
        return self._cgroups.file(name, self._file)


class Partition(CgroupKind):
    """`cgroup.partition:/machine.slice`: member, root or isolated; `isolated invalid (reason)` where the kernel
    took the partition away."""

    def read(self, name: str) -> Optional[str]:
        """The partition's state, with the kernel's reason where it is invalid."""
        return self._cgroups.read(name, PARTITION) or "member"

    def write(self, name: str, value: str) -> None:
        """Set the partition type."""
        if value != "member":
            self._make_room(name)
        self._cgroups.host.write(self.where(name), value.split()[0])

    def _make_room(self, name: str) -> None:
        """Empty the lists that were to be emptied and are not, while that can be done: it cannot beside a partition.

        At the least, take the partition's CPUs out of them: they would make it invalid.
        """
        own = self._cgroups.cpus(name)
        parent = parent_of(name)
        for sibling in self._cgroups.children(parent):
            listed = self._cgroups.cpus(sibling)
            if not listed or (sibling, "cpuset.cpus") not in self._cgroups.emptied:
                continue
            if self._cgroups.inherit_again(parent):
                return
            if listed & own:
                self._cgroups.host.write(self._cgroups.file(sibling, "cpuset.cpus"), format_list(listed - own))

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """Dissolved before any list changes, formed after all have. root and isolated change into each other in place.

        An invalid one must be dissolved first: on 6.1, writing its type again changes nothing.
        """
        dissolve = [(0.0, "member")] if new == "member" or "invalid" in old else []
        return dissolve + ([(6.0, new)] if new != "member" else [])

    def where(self, name: str) -> str:
        """The file."""
        return self._cgroups.file(name, PARTITION)

    def valid_value(self, value: str) -> bool:
        """A type, with or without the kernel's note."""
        return value.split(" ")[0] in ("member", "root", "isolated") and "\n" not in value


class Place(CgroupKind):
    """`task.cgroup:PID:START`: the cgroup of a process."""

    restless = True

    def read(self, name: str) -> Optional[str]:
        """Its cgroup's path; None where it has ended, or another has its number now."""
        pid, start = name.split(":")
        if start_time(self._cgroups.host, int(pid)) != int(start):
            return None
        for line in (self._cgroups.host.read(f"/proc/{pid}/cgroup") or "").splitlines():
            if line.startswith("0::"):
                return line[3:]
        return None

    def write(self, name: str, value: str) -> None:
        """Move it with all its threads."""
        try:
            self._cgroups.host.write(self._cgroups.file(value, "cgroup.procs"), name.split(":")[0])
        except Refused as refused:
            if self.read(name) is None:
                raise Immovable("the process has ended") from None
            if not self._cgroups.exists(value):
                raise Immovable(f"its cgroup {value} is gone") from None
            raise refused

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """Behind the cpusets."""
        return [(8, new)]

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
