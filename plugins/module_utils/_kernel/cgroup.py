# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""cgroup v2: the cpuset controller of every cgroup, whoever owns it.

Source: Documentation/admin-guide/cgroup-v2.rst, section Cpuset.
"""

from __future__ import annotations

import json
from typing import Iterator, List, Optional, Set, Tuple

from .._cpus import CpuSet, parse_list
from .._errors import IsolationError
from .host import Host
from .systemd import Systemd, unit_of

PARTITION = "cpuset.cpus.partition"
LISTS = ("cpuset.cpus", "cpuset.mems")
# Where libvirt and Proxmox run virtual machines.
VM_SLICES = ("/machine.slice", "/qemu.slice")
UNFINISHED = "/run/vfio-isolation/lists-to-write-back"


def parent_of(cgroup: str) -> str:
    """The cgroup above one."""
    return cgroup.rpartition("/")[0] or "/"


class Cgroups:
    """The cgroup hierarchy that has the cpuset controller. Paths begin with `/`, the root of the hierarchy."""

    def __init__(self, host: Host, systemd: Systemd) -> None:
        self.host = host
        self.systemd = systemd
        # Lists, as cgroup and file, that were to be emptied and that the kernel may still hold.
        self.emptied: Set[Tuple[str, str]] = set()
        self._mount: Optional[str] = None

    def version(self) -> int:
        """2, 1, or 0 where this host has no cpuset controller at all.

        Some systems mount several v1 hierarchies with a v2 one beside them, so the first cgroup mount says little.
        """
        version = 0
        for line in (self.host.read("/proc/self/mountinfo") or "").splitlines():
            place, _dash, filesystem = line.partition(" - ")
            words = filesystem.split()
            mount = place.split()[4]
            if words[0] == "cgroup2" and "cpuset" in (self.host.read(f"{mount}/cgroup.controllers") or "").split():
                self._mount = mount
                return 2
            if words[0] == "cgroup" and "cpuset" in words[-1].split(","):
                version = 1
        return version

    def file(self, cgroup: str, name: str = "") -> str:
        """The path of a cgroup's directory, or of a file in it."""
        if self._mount is None and self.version() != 2:
            raise IsolationError(
                "this host's cpuset controller is not on cgroup v2; boot it with systemd.unified_cgroup_hierarchy=1"
            )
        return f"{self._mount}{'' if cgroup == '/' else cgroup}{'/' if name else ''}{name}"

    def exists(self, cgroup: str) -> bool:
        """Whether there is such a cgroup."""
        return self.host.exists(self.file(cgroup, "cgroup.procs"))

    def read(self, cgroup: str, name: str) -> str:
        """A cgroup's file; empty where it has none (the controller is off)."""
        return self.host.read(self.file(cgroup, name)) or ""

    def cpus(self, cgroup: str, name: str = "cpuset.cpus") -> CpuSet:
        """One of a cgroup's CPU lists."""
        return parse_list(self.read(cgroup, name))

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

    def processes(self, cgroup: str) -> List[int]:
        """The processes of a cgroup, without those below it."""
        return [int(pid) for pid in self.read(cgroup, "cgroup.procs").split()]

    def threads(self, cgroup: str) -> List[int]:
        """The threads of a cgroup, without those below it."""
        listed = self.host.read(self.file(cgroup, "cgroup.threads"))
        if listed is not None:
            return [int(thread) for thread in listed.split()]
        # EOPNOTSUPP: a `domain invalid` cgroup does not list its threads.
        return [int(thread) for pid in self.processes(cgroup) for thread in self.host.list(f"/proc/{pid}/task")]

    def inherit_again(self, parent: str) -> bool:
        """Make the emptied lists below a cgroup inherited, where its tasks keep the kernel from that.

        The kernel answers ENOSPC to emptying the list of a populated cgroup, so the controller is switched off and on
        again below the parent, and every other list written back. False where that would disturb partitions, running
        VMs, or cpusets that systemd does not own, such as those of containers.
        """
        if any("populated 1" in self.read(place, "cgroup.events") for place in VM_SLICES):
            return False
        lists: List[List[str]] = []
        enabled: List[str] = []
        for path, _children in self.walk(parent):
            if path != parent:
                if self.read(path, PARTITION) not in ("", "member"):
                    return False
                for name in LISTS:
                    value = "" if (path, name) in self.emptied else self.read(path, name)
                    lists += [[path, name, value]] if value else []
            if "cpuset" in self.read(path, "cgroup.subtree_control").split():
                if path != parent and self.owner(path) is None:
                    return False
                enabled.append(path)
        self.host.save(UNFINISHED, json.dumps([enabled, lists]), 0o600)
        for path in reversed(enabled):
            self.host.write(self.file(path, "cgroup.subtree_control"), "-cpuset")
        self.finish()
        return True

    def finish(self) -> None:
        """Write back the lists that `inherit_again` took away, be it in a run that was killed."""
        text = self.host.read(UNFINISHED)
        if text is None:
            return
        try:
            enabled, lists = json.loads(text)
        except ValueError:
            enabled, lists = [], []
        for cgroup in enabled:
            if self.exists(cgroup):
                self.host.write(self.file(cgroup, "cgroup.subtree_control"), "+cpuset")
        for cgroup, name, value in lists:
            if self.exists(cgroup) and name in LISTS:
                self.host.write(self.file(cgroup, name), value)
        self.host.remove(UNFINISHED)

    def owner(self, cgroup: str) -> Optional[str]:
        """The systemd unit that must be asked to change this cgroup; None where it is written directly."""
        return unit_of(cgroup) if self.systemd.running() else None
