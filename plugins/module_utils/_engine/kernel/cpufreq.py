# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""cpufreq policies: governors and energy preferences. CPUs share policies.

Source: Documentation/admin-guide/pm/cpufreq.rst, .../intel_pstate.rst.
"""

from __future__ import annotations

import os
from typing import List, Optional, Tuple

from ..text.cpus import CpuSet, parse_list
from .host import Host
from .kind import Kind

CPUFREQ = "/sys/devices/system/cpu/cpufreq"


class Cpufreq:
    """The cpufreq policies of a host."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def policies(self) -> List[Tuple[str, CpuSet]]:
        """Every policy with its online CPUs, by number; none where there is no cpufreq driver."""
        names = [name for name in self.host.list(CPUFREQ) if name[:6] == "policy" and name[6:].isdigit()]
        names.sort(key=lambda name: int(name[6:]))
        return [
            (name, parse_list((self.host.read(f"{CPUFREQ}/{name}/affected_cpus") or "").replace(" ", ",")))
            for name in names
        ]

    def governors(self, policy: str) -> List[str]:
        """The governors that a policy offers now."""
        return (self.host.read(f"{CPUFREQ}/{policy}/scaling_available_governors") or "").split()

    def preferences(self, policy: str) -> List[str]:
        """The energy preferences that a policy offers; none where its driver has none."""
        return (self.host.read(f"{CPUFREQ}/{policy}/energy_performance_available_preferences") or "").split()

    def loadable(self, governor: str) -> bool:
        """Whether the kernel would find a module for a governor that is not offered yet."""
        modules = f"/lib/modules/{os.uname().release}"
        listed = (self.host.read(f"{modules}/modules.dep") or "") + (self.host.read(f"{modules}/modules.builtin") or "")
        return f"/cpufreq_{governor}.ko" in listed


class PolicyFile(Kind):
    """`cpufreq.governor:policy0`, `cpufreq.preference:policy0`."""

    family = "cpufreq"

    def __init__(self, host: Host, file: str, stage: int) -> None:
        self._host = host
        self._file = file
        self._stage = stage

    def read(self, name: str) -> Optional[str]:
        """The governor or preference."""
        return self._host.read(self.where(name))

    def write(self, name: str, value: str) -> None:
        """Set it; the kernel loads the module of a governor that it does not have yet."""
        self._host.write(self.where(name), value)

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """The governor first: `performance` locks the preference."""
        return [(self._stage, new)]

    def where(self, name: str) -> str:
        """The file."""
        return f"{CPUFREQ}/{name}/{self._file}"

    def valid_name(self, name: str) -> bool:
        """A policy's name."""
        return name[:6] == "policy" and name[6:].isdigit()

    def valid_value(self, value: str) -> bool:
        """One word, or a number for a raw preference."""
        return value.replace("_", "").replace("-", "").isalnum()
