# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The table of kinds, and the one way from an address such as `irq.affinity:24` to the kernel."""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from .errors import IsolationError, quoted
from .kernel import hierarchy, irq, irqbalance
from .kernel.cpufreq import GOVERNOR, PREFERENCE, Cpufreq, EnergyPreference, PolicyFile
from .kernel.cpuset import EXISTS, TASK_AFFINITY, TASK_CGROUP, CgroupExistence, TaskCgroup
from .kernel.host import Host
from .kernel.hugepages import HUGEPAGES, Hugepages
from .kernel.kind import Kind
from .kernel.memory import Memory
from .kernel.systemd import Systemd
from .kernel.task import Affinity
from .kernel.topology import SysfsTopology
from .kernel.virtual_machines import VirtualMachines
from .model import Address


class Resources:
    """Every setting of one host, and what can be read of it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.topology = SysfsTopology(host)
        self.systemd = Systemd(host)
        self.cgroups = hierarchy.find(host, self.systemd)
        self.irqs = irq.Irqs(host)
        self.irqbalance = irqbalance.Irqbalance(host)
        self.cpufreq = Cpufreq(host)
        self.memory = Memory(host)
        self.hugepages = Hugepages(host)
        self.virtual_machines = VirtualMachines(host, self.cgroups)
        self._found: Dict[Address, Kind] = {}
        # Families are written in this order when they are restored, the reverse of the order in the role's steps.
        self.kinds: Dict[str, Kind] = {
            HUGEPAGES: self.hugepages,
            irqbalance.BANNED: self.irqbalance,
            irq.AFFINITY: self.irqs,
            irq.DEFAULT: irq.DefaultAffinity(host),
            EXISTS: CgroupExistence(self.cgroups),
            **hierarchy.kinds(self.cgroups),
            TASK_CGROUP: TaskCgroup(self.cgroups),
            TASK_AFFINITY: Affinity(host, self.topology),
            GOVERNOR: PolicyFile(host, "scaling_governor"),
            PREFERENCE: EnergyPreference(host),
        }

    def kind(self, address: Address) -> Kind:
        """The kind of an address. Raises IsolationError if there is no such address."""
        if address not in self._found:
            kind = self.kinds.get(address.kind)
            if kind is None or not kind.valid_name(address.name):
                raise IsolationError(
                    f"{quoted(str(address))} is not the address of a setting that this collection may change"
                )
            self._found[address] = kind
        return self._found[address]

    def parse(self, text: object, value: object) -> Tuple[Address, str]:
        """A saved setting, checked. Raises IsolationError unless the address exists and may hold this value."""
        address = Address.parse(str(text))
        if not isinstance(value, str) or not self.kind(address).valid_value(value):
            raise IsolationError(f"{quoted(text)} cannot hold {quoted(value)}")
        return address, value

    def read(self, address: Address) -> Optional[str]:
        """The current value; None if the setting no longer exists."""
        return self.kind(address).read(address.name)
