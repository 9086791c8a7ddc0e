# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Memory: what is free, and the files that drop caches and compact a node."""

from __future__ import annotations

from typing import List

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.files import Files
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import Part, Parts
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import NODE
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Baseline

ACTIONS = ("/proc/sys/vm/drop_caches", f"{NODE}/node0/compact", f"{NODE}/node1/compact")


class Memory(Part):
    """`acted` are the files that were written: there is nothing else to see of it."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self.acted: List[str] = []
        zones = "Node 0, zone DMA 1 1 1 1 1 1 1 1 1 3 2\nNode 1, zone Normal 0 0 0 0 0 0 0 0 0 1 1"
        parts[Files].files.update(
            {
                "/proc/meminfo": "MemTotal: 2000 kB\nMemFree: 1000 kB\nHugepagesize: 2048 kB",
                "/proc/buddyinfo": zones,
                "/proc/sys/vm/drop_caches": "0",
                f"{NODE}/node0/compact": "",
                f"{NODE}/node1/compact": "",
            }
        )

    def write(self, path: str, value: str) -> bool:
        if path not in ACTIONS:
            return False
        self.acted.append(path)
        return True
