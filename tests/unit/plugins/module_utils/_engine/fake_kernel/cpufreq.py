# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cpufreq policies of two CPUs each: governors, and the energy preference that one of them locks."""

from __future__ import annotations

import errno
import re
from typing import Any, Dict, List, Optional

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import (
    Difference,
    Part,
    Parts,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import Topology
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    Baseline,
    Cpus,
    os_error,
)

CPUFREQ = "/sys/devices/system/cpu/cpufreq"
GOVERNORS = ("performance", "powersave", "ondemand", "conservative", "schedutil")
PREFERENCES = ("default", "performance", "balance_performance", "balance_power", "power")
# intel_pstate reads these numbers as names, and so what `default` stands for; other numbers as they are.
NAMED = {"0": "performance", "128": "balance_performance", "192": "balance_power", "255": "power", "default": "power"}


class Cpufreq(Part):
    """Governor and energy preference of each policy."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self._topology = parts[Topology]
        self.governors = dict(enumerate(baseline.governors))
        self.preferences = dict(enumerate(baseline.preferences or ()))
        self.unnamed = {"default"}  # drivers differ in whether they read it back
        for policy in self.governors:
            self._lock_preference(policy)

    def _lock_preference(self, policy: int) -> None:
        if self.governors[policy] == "performance" and policy in self.preferences:
            self.preferences[policy] = "performance"

    def _online(self, policy: int) -> Cpus:
        return frozenset({2 * policy, 2 * policy + 1}) & self._topology.online

    def exists(self, path: str) -> bool:
        match = re.match(CPUFREQ + r"/policy(\d+)/(scaling_governor|energy_performance_preference)\Z", path)
        known = self.preferences if match and match.group(2).startswith("energy") else self.governors
        return match is not None and int(match.group(1)) in known

    def read(self, path: str) -> Optional[str]:
        match = re.match(CPUFREQ + r"/policy(\d+)/(\w+)\Z", path)
        if not match or int(match.group(1)) not in self.governors or not self._online(int(match.group(1))):
            return None  # EBUSY if its CPUs are offline
        policy = int(match.group(1))
        answers = {
            "affected_cpus": " ".join(map(str, sorted(self._online(policy)))),
            "related_cpus": f"{2 * policy} {2 * policy + 1}",
            "scaling_governor": self.governors[policy],
            "scaling_available_governors": " ".join(GOVERNORS) + " ",
        }
        if policy in self.preferences:
            answers["energy_performance_preference"] = self.preferences[policy]
            answers["energy_performance_available_preferences"] = " ".join(PREFERENCES)
        return answers.get(match.group(2))

    def list(self, path: str) -> Optional[List[str]]:
        return sorted(f"policy{policy}" for policy in self.governors) if path == CPUFREQ else None

    def write(self, path: str, value: str) -> bool:
        match = re.match(CPUFREQ + r"/policy(\d+)/(\w+)\Z", path)
        if not match or int(match.group(1)) not in self.governors:
            return False
        policy, name = int(match.group(1)), match.group(2)
        if not self._online(policy):
            raise os_error(errno.EBUSY)
        if name == "scaling_governor":
            if value not in GOVERNORS:
                raise os_error(errno.EINVAL)
            self.governors[policy] = value
            self._lock_preference(policy)
        elif name == "energy_performance_preference" and policy in self.preferences:
            if self.governors[policy] == "performance" and value != "performance":
                raise os_error(errno.EBUSY)
            if value not in PREFERENCES and not (value.isdigit() and int(value) <= 255):
                raise os_error(errno.EINVAL)
            self.preferences[policy] = value if value in self.unnamed else NAMED.get(value, value)
        else:
            return False
        return True

    def snapshot(self) -> Dict[str, Any]:
        governors = {f"governor {policy}": value for policy, value in self.governors.items()}
        return {**governors, **{f"preference {policy}": value for policy, value in self.preferences.items()}}

    @staticmethod
    def address(seen: Difference) -> Optional[str]:
        kind, _space, policy = seen.line.partition(" ")
        return f"cpufreq.{kind}:policy{policy}" if kind in ("governor", "preference") else None
