# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The table of kinds, and the one way from an address such as `irq.affinity:24` to the kernel."""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from .errors import IsolationError
from .kernel import hierarchy
from .kernel.cpufreq import Cpufreq, PolicyFile
from .kernel.cpuset import CgroupExistence, TaskCgroup
from .kernel.host import Host
from .kernel.irq import DefaultAffinity, Irqs
from .kernel.irqbalance import Irqbalance
from .kernel.kind import Kind
from .kernel.memory import Memory
from .kernel.systemd import Systemd
from .kernel.task import Affinity
from .kernel.topology import SysfsTopology

THREAD = "task.affinity"
PLACE = "task.cgroup"


class Resources:
    """Every setting of one host, and what can be asked about it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.topology = SysfsTopology(host)
        self.systemd = Systemd(host)
        self.cgroups = hierarchy.find(host, self.systemd)
        self.irqs = Irqs(host)
        self.irqbalance = Irqbalance(host)
        self.cpufreq = Cpufreq(host)
        self.memory = Memory(host)
        self._found: Dict[str, Tuple[Kind, str]] = {}
        # In this order they are given back: what was taken last in the role's list of steps comes first.
        self.kinds: Dict[str, Kind] = {
            "irqbalance.banned": self.irqbalance,
            "irq.affinity": self.irqs,
            "irq.default": DefaultAffinity(host),
            "cgroup.exists": CgroupExistence(self.cgroups),
            **hierarchy.kinds(self.cgroups),
            PLACE: TaskCgroup(self.cgroups),
            THREAD: Affinity(host),
            "cpufreq.governor": PolicyFile(host, "scaling_governor", 0),
            "cpufreq.preference": PolicyFile(host, "energy_performance_preference", 1),
        }

    def find(self, address: str) -> Tuple[Kind, str]:
        """The kind and the name of an address. Raises IsolationError where there is no such address."""
        if address in self._found:
            return self._found[address]
        prefix, _colon, name = address.partition(":")
        kind = self.kinds.get(prefix)
        if kind is None or not kind.valid_name(name):
            raise IsolationError(f"{address!r} is not the address of a setting that this collection may change")
        self._found[address] = kind, name
        return kind, name

    def check(self, address: str, value: object) -> None:
        """Raise IsolationError unless this address may hold this value: for what was saved and comes back."""
        kind, _name = self.find(address)
        if not isinstance(value, str) or not kind.valid_value(value):
            raise IsolationError(f"{address!r} cannot hold {value!r}")

    def read(self, address: str) -> Optional[str]:
        """The value now; None where the thing is gone."""
        kind, name = self.find(address)
        return kind.read(name)
