# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interrupts: their affinities, the default for new ones, and those that the kernel manages itself."""

from __future__ import annotations

import errno
import re
from typing import Any, Dict, List, Optional

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import (
    Difference,
    Part,
    Parts,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import (
    POSSIBLE,
    Topology,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    Baseline,
    numbers,
    os_error,
    text_of,
)

IRQ = "/proc/irq"
DEFAULT = f"{IRQ}/default_smp_affinity"


class Irqs(Part):
    """The affinity of each interrupt."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self._topology = parts[Topology]
        self.exist = True
        self.affinities = {number: numbers(cpus) for number, cpus in enumerate(baseline.irqs)}
        self.managed = baseline.managed
        self.fixed: Dict[int, int] = {}  # those that refuse any affinity, with the errno
        self.default = numbers(baseline.default_irq)
        self.has_default = True
        self.refuses_by_mode = baseline.refuses_by_mode

    def _number(self, path: str) -> Optional[int]:
        match = re.match(IRQ + r"/(\d+)/smp_affinity_list\Z", path)
        return int(match.group(1)) if match and self.exist and int(match.group(1)) in self.affinities else None

    def read(self, path: str) -> Optional[str]:
        if path == DEFAULT and self.exist:
            return f"{sum(1 << cpu for cpu in self.default):02x}" if self.has_default else None
        number = self._number(path)
        return None if number is None else text_of(self.affinities[number])

    def list(self, path: str) -> Optional[List[str]]:
        names = [str(number) for number in self.affinities] + ["default_smp_affinity"]
        return sorted(names) if path == IRQ and self.exist else None

    def write(self, path: str, value: str) -> bool:
        number = self._number(path)
        if not self.exist:
            return False
        if path == DEFAULT:
            bits = int(value.replace(",", ""), 16)
            self.default = frozenset(cpu for cpu in POSSIBLE if bits >> cpu & 1)
        elif number is None:
            return False
        elif number in self.managed:
            raise os_error(errno.EIO)
        elif number in self.fixed:
            raise os_error(self.fixed[number])
        elif not numbers(value) & self._topology.online:
            raise os_error(errno.EINVAL)
        else:
            self.affinities[number] = numbers(value)
        return True

    def hotplug(self) -> None:
        """The kernel gives an interrupt all online CPUs if it has none left."""
        for number, cpus in self.affinities.items():
            if number not in self.managed and not cpus & self._topology.online:
                self.affinities[number] = self._topology.online

    def writable(self, path: str) -> bool:
        return not (self.refuses_by_mode and self._number(path) in self.managed)

    def probe_errno(self, path: str, text: str) -> int:
        number = self._number(path)
        if number is None:
            return 0
        refused = errno.EIO if number in self.managed else errno.EINVAL if text == "?\n" else 0
        return self.fixed.get(number, refused)

    def snapshot(self) -> Dict[str, Any]:
        affinities = {f"{IRQ}/{number}": text_of(cpus) for number, cpus in self.affinities.items()}
        return {**affinities, f"{IRQ}/default": text_of(self.default)}

    @staticmethod
    def address(seen: Difference) -> Optional[str]:
        directory, _slash, name = seen.line.rpartition("/")
        if directory != IRQ:
            return None
        return "irq.default:" if name == "default" else f"irq.affinity:{name}"
