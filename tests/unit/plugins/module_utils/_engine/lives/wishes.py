# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What claims want."""

from __future__ import annotations

from typing import NamedTuple

from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    step,
)

VMS = "/machine.slice"
BELOW = f"{VMS}/machine-vms.slice"
OTHER = "/vms.slice"


# What a claim wants


class Reserve(NamedTuple):
    """CPUs for what is in a cgroup."""

    cpus: str
    strategy: str = "partition"
    cgroup: str = VMS
    emulator: str = ""

    def step(self) -> Step:
        """Its step."""
        given = {"cpus": self.cpus, "emulator_cpus": self.emulator, "strategy": self.strategy, "cgroup": self.cgroup}
        return step("reserve_cpus", **given)


class Confine(NamedTuple):
    """The CPUs of one unit."""

    path: str
    cpus: str
    operation: str

    def step(self) -> Step:
        """Its step."""
        return step("cpuset", path=self.path, cpus=self.cpus, operation=self.operation)


class Govern(NamedTuple):
    """A governor."""

    cpus: str
    governor: str = "performance"

    def step(self) -> Step:
        """Its step."""
        return step("cpu_governor", cpus=self.cpus, governor=self.governor)


class Mask(NamedTuple):
    """Interrupts kept off CPUs."""

    cpus: str

    def step(self) -> Step:
        """Its step."""
        return step("irq_affinity", cpus=self.cpus)


class Unbind(NamedTuple):
    """Kernel threads kept off CPUs."""

    cpus: str

    def step(self) -> Step:
        """Its step."""
        return step("kthread_affinity", cpus=self.cpus)
