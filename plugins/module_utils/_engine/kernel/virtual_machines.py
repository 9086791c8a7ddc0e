# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The virtual machines that run on this host, whoever started them: QEMU processes that use KVM.

Source: virt/kvm/kvm_main.c, who uses KVM has /dev/kvm open; qemu(1), -name; comm has the first 15 characters of
qemu-system-x86_64, and is kvm on Proxmox VE.
"""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional

from ..text.cpus import NONE, CpuSet, is_number
from .cgroup import Cgroups
from .host import Host
from .task import TaskId, argument, identify

DEVICE = "/dev/kvm"
MODULES = ("kvm_amd", "kvm_intel")
PROGRAM = re.compile(r"qemu|kvm\Z")
VCPU = re.compile(r"CPU [0-9]+/")


class VirtualMachine(NamedTuple):
    """A QEMU process with KVM."""

    process: int
    name: str  # as given to QEMU; empty if it was not
    cgroup: str
    threads: List[TaskId]
    vcpus: List[TaskId]  # those of its threads that have such names, with -name debug-threads=on

    def __str__(self) -> str:
        return f"QEMU process {self.process}" + (f" ({self.name})" if self.name else "")


class VirtualMachines:
    """Those of one host, looked for once."""

    def __init__(self, host: Host, cgroups: Cgroups) -> None:
        self._host = host
        self._cgroups = cgroups
        self._found: Optional[List[VirtualMachine]] = None

    def running(self) -> List[VirtualMachine]:
        """The virtual machines that run, by their process numbers. Those of other users' containers count, too."""
        if self._found is None:
            found = map(self._read, self._processes()) if self._may_run() else ()
            self._found = [machine for machine in found if machine]
        return self._found

    def _may_run(self) -> bool:
        """Whether anybody may use KVM: who does also uses its module, if it is one. A host has many processes."""
        uses = (self._host.read(f"/sys/module/{module}/refcnt") for module in MODULES)
        return self._host.exists(DEVICE) and set(filter(None, uses)) != {"0"}

    def _processes(self) -> List[int]:
        numbers = sorted(int(name) for name in self._host.list("/proc") if is_number(name))
        return [number for number in numbers if PROGRAM.match(self._host.read(f"/proc/{number}/comm") or "")]

    def _read(self, process: int) -> Optional[VirtualMachine]:
        """The virtual machine of a process; None if it has none, or has ended."""
        if DEVICE not in self._host.links(f"/proc/{process}/fd"):
            return None
        cgroup = self._cgroups.place(process)
        numbers = (int(name) for name in self._host.list(f"/proc/{process}/task"))
        threads = [thread for thread in (identify(self._host, number) for number in numbers) if thread]
        name = _name(argument(self._host, process, "-name"))
        vcpus = [t for t in threads if VCPU.match(self._host.read(f"/proc/{process}/task/{t.number}/comm") or "")]
        return VirtualMachine(process, name, cgroup, threads, vcpus) if cgroup and threads else None

    def affinity(self, thread: TaskId) -> CpuSet:
        """The online CPUs that a thread may run on now; none if it has ended."""
        return self._host.affinity(thread.number) or NONE


def _name(given: str) -> str:
    """What follows `-name`: NAME, or guest=NAME with more options beside it. A comma in a name is written twice."""
    following = given.replace(",,", "\0")
    name = re.match(r"(?:.*,)?guest=([^,]*)", following)
    found = (name[1] if name else following.partition(",")[0]).replace("\0", ",")
    return found if found.isprintable() else repr(found)
