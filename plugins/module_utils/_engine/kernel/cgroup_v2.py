# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""cgroup v2: a controller that is switched on level by level, and lists that are inherited.

Source: Documentation/admin-guide/cgroup-v2.rst, section Cpuset.
"""

from __future__ import annotations

import json
from typing import Callable, List, Optional, Set, Tuple

from ..errors import IsolationError, Refused, quoted
from ..paths import LISTS_TO_WRITE_BACK
from ..text.cgroup_path import is_valid, parent_of
from ..text.cpus import CpuSet, format_list, parse_list
from .cgroup import Cgroups
from .host import Host
from .notes import read_note
from .systemd import Systemd, unit_of

PARTITION_FILE = "cpuset.cpus.partition"
LISTS = ("cpuset.cpus", "cpuset.mems")
# Where libvirt and Proxmox run virtual machines.
VM_SLICES = ("/machine.slice", "/qemu.slice")


class CgroupsV2(Cgroups):
    """The unified hierarchy."""

    version = 2

    def __init__(self, host: Host, systemd: Systemd, mount: str, root: str = "/", controllers: str = "") -> None:
        super().__init__(host, systemd, mount, root, controllers)
        # Lists, as cgroup and file, that should have been emptied but that the kernel may still hold.
        self.emptied: Set[Tuple[str, str]] = set()

    def threads(self, cgroup: str) -> List[int]:
        """The threads of a cgroup, without those below it."""
        listed = self.host.read(self.file(cgroup, "cgroup.threads"))
        if listed is not None:
            return [int(thread) for thread in listed.split()]
        # EOPNOTSUPP: a `domain invalid` cgroup does not list its threads.
        return [thread for process in self.tasks(cgroup) for thread in self.threads_of(process)]

    def threads_of(self, task: int) -> List[int]:
        """All threads of a process."""
        return [int(thread) for thread in self.host.list(f"/proc/{task}/task")]

    def place(self, task: int) -> Optional[str]:
        """The cgroup of a process; None if it has ended.

        If its first thread has ended, that one stays where it was, so another thread is read.
        """
        others = [thread for thread in self.threads_of(task) if thread != task]
        places = (super(CgroupsV2, self).place(thread) for thread in (*others, task))
        return next(filter(None, places), None)

    def populated(self, cgroup: str) -> bool:
        """Whether anything runs in a cgroup or below it."""
        return "populated 1" in self.read(cgroup, "cgroup.events")

    def owner(self, cgroup: str) -> Optional[str]:
        """The systemd unit that must be asked to change this cgroup; None if it is written directly."""
        return unit_of(cgroup) if self.systemd.running() else None

    def inherit_again(self, parent: str) -> bool:
        """Make the emptied lists below a cgroup inherited, if tasks keep the kernel from that.

        The kernel returns ENOSPC if the list of a populated cgroup is emptied, so the controller is switched off and on
        again below the parent, and every other list is written back. False if that would disturb partitions, running
        VMs, or cpusets that systemd does not own, such as those of containers.
        """
        if not self.may_inherit_again(parent, self.is_partition):
            return False
        lists: List[List[str]] = []
        enabled: List[str] = []
        for path, _children in self.walk(parent):
            if path != parent:
                for name in LISTS:
                    value = "" if (path, name) in self.emptied else self.read(path, name)
                    lists += [[path, name, value]] if value else []
            if "cpuset" in self.read(path, "cgroup.subtree_control").split():
                enabled.append(path)
        self.host.save(LISTS_TO_WRITE_BACK, json.dumps([enabled, lists]), 0o600)
        for path in reversed(enabled):
            self.host.write(self.file(path, "cgroup.subtree_control"), "-cpuset")
        owed = self.finish()
        if owed:
            raise IsolationError("; ".join(owed))
        return True

    def free_cpus(self, partition: str, cpus: CpuSet) -> None:
        """Make the lists beside a partition inherited that should have been emptied; beside a valid one that cannot be.

        At least take the CPUs that the partition is to have out of them: these would make it invalid.
        """
        parent = parent_of(partition)
        for sibling in self.children(parent):
            listed = self.cpus(sibling)
            if not listed or (sibling, "cpuset.cpus") not in self.emptied:
                continue
            if self.inherit_again(parent):
                return
            if listed & cpus:
                self.host.write(self.file(sibling, "cpuset.cpus"), format_list(listed - cpus))

    def may_inherit_again(self, parent: str, is_partition: Callable[[str], bool]) -> bool:
        """Whether that disturbs nobody."""
        if self.host.exists(LISTS_TO_WRITE_BACK) or any(self.populated(place) for place in VM_SLICES):
            return False
        below = [path for path, _children in self.walk(parent) if path != parent]
        foreign = [path for path in below if self.owner(path) is None]
        enabled = ("cpuset" in self.read(path, "cgroup.subtree_control").split() for path in foreign)
        return not any(enabled) and not any(is_partition(path) for path in below)

    def is_partition(self, cgroup: str) -> bool:
        """Whether it is a partition, valid or not."""
        return self.read(cgroup, PARTITION_FILE) not in ("", "member")

    def finish(self) -> List[str]:
        """Write back the lists that `inherit_again` removed, even in a run that was killed.

        Returns a sentence for each that is refused; they stay in the note, for the next run. Raises IsolationError if
        the note cannot be trusted.
        """
        note = read_note(self.host, LISTS_TO_WRITE_BACK, _lists_to_write_back)
        if note is None:
            return []
        enabled, lists = note
        owed: List[str] = []
        enabled = [c for c in enabled if self._is_owed(c, "cgroup.subtree_control", "+cpuset", owed)]
        lists = [(c, name, value) for c, name, value in lists if self._is_owed(c, name, value, owed)]
        try:
            if not owed:
                self.host.remove(LISTS_TO_WRITE_BACK)
            elif (enabled, lists) != note:
                self.host.save(LISTS_TO_WRITE_BACK, json.dumps([enabled, lists]), 0o600)
        except Refused as refused:
            owed.append(str(refused))
        return owed

    def _is_owed(self, cgroup: str, name: str, value: str, owed: List[str]) -> bool:
        """Write one of them back. Whether it still has to be: what is gone is owed nothing."""
        try:
            if self.exists(cgroup):
                self.host.write(self.file(cgroup, name), value)
        except Refused as refused:
            if self.exists(cgroup):
                owed.append(f"{refused}; it had that before, and each run tries again to write it back")
                return True
        return False


def _lists_to_write_back(note: str) -> Tuple[List[str], List[Tuple[str, str, str]]]:
    """Cgroups that had the controller enabled, and lists: cgroup, file, value. Raises ValueError or TypeError."""
    enabled, lists = json.loads(note)
    for cgroup in [*enabled, *(cgroup for cgroup, _name, _value in lists)]:
        if not isinstance(cgroup, str) or not is_valid(cgroup):
            raise ValueError(f"{quoted(cgroup)} is not the path of a cgroup")
    found: List[Tuple[str, str, str]] = []
    for cgroup, name, value in lists:
        if name not in LISTS or cgroup == "/":
            raise ValueError(f"{cgroup} has no list {name!r} to write")
        if not isinstance(value, str):
            raise ValueError(f"{quoted(value)} is not a list")
        parse_list(value)
        found.append((cgroup, name, value))
    return enabled, found
