# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""cpufreq policies: governors and energy preferences. CPUs share policies.

Source: Documentation/admin-guide/pm/cpufreq.rst, .../intel_pstate.rst.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

from ..text.cpus import CpuSet, is_number, parse_list
from .host import Host
from .stages import Stage
from .sysfs import Word

CPUFREQ = "/sys/devices/system/cpu/cpufreq"
# The names of the kinds.
GOVERNOR = "cpufreq.governor"
PREFERENCE = "cpufreq.preference"


class Cpufreq:
    """The cpufreq policies of a host."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def policies(self) -> List[Tuple[str, CpuSet]]:
        """Every policy with its CPUs, by number; a policy has none if all are offline.

        None if there is no cpufreq driver.
        """
        names = [name for name in self.host.list(CPUFREQ) if name[:6] == "policy" and is_number(name[6:])]
        names.sort(key=lambda name: int(name[6:]))
        return [
            (name, parse_list((self.host.read(f"{CPUFREQ}/{name}/related_cpus") or "").replace(" ", ",")))
            for name in names
        ]

    def governors(self, policy: str) -> List[str]:
        """The governors that a policy offers now."""
        return (self.host.read(f"{CPUFREQ}/{policy}/scaling_available_governors") or "").split()

    def preferences(self, policy: str) -> List[str]:
        """The energy preferences that a policy offers; none if its driver has none."""
        return (self.host.read(f"{CPUFREQ}/{policy}/energy_performance_available_preferences") or "").split()

    def loadable(self, governor: str) -> bool:
        """Whether the kernel finds a module for a governor that is not offered yet."""
        modules = f"/lib/modules/{self.host.kernel_release()}"
        listed = (self.host.read(f"{modules}/modules.dep") or "") + (self.host.read(f"{modules}/modules.builtin") or "")
        return f"/cpufreq_{governor}.ko" in listed


class PolicyFile(Word):
    """`cpufreq.governor:policy0`.

    The kernel loads the module of a governor when it needs it. The governor comes first: `performance` locks
    the preference.
    """

    def __init__(self, host: Host, file: str, stage: Stage = Stage.SET) -> None:
        super().__init__(host, "cpufreq", "policy[0-9]{1,9}", lambda name: f"{CPUFREQ}/{name}/{file}", stage)

    def is_offline(self, name: str) -> bool:
        """The kernel returns EBUSY for every file of a policy without an online CPU."""
        return self._host.exists(self.where(name)) and self.read(name) is None


class EnergyPreference(PolicyFile):
    """`cpufreq.preference:policy0`: a name, or a number from 0 to 255 that the driver has no name for."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, "energy_performance_preference", Stage.DEPENDENT)

    def explain(self, name: str, wanted: str, now: Optional[str]) -> str:
        """Which numbers have names depends on the model of the CPU, see epp_values in intel_pstate.c."""
        if now and not is_number(now) and (is_number(wanted) or wanted == "default"):
            return f"{self.where(name)}: the driver calls {wanted!r} {now!r}; use that name as energy_preference"
        return super().explain(name, wanted, now)
