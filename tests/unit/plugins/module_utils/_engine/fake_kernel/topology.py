# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CPUs and NUMA nodes: 8 of the one, 2 of the other."""

from __future__ import annotations

from typing import Any, Dict, Optional

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.files import Files
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import Part, Parts
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    Baseline,
    Cpus,
    numbers,
    text_of,
)

CPU = "/sys/devices/system/cpu"
NODE = "/sys/devices/system/node"
POSSIBLE = numbers("0-7")


class Topology(Part):
    """Which CPUs there are; those that are online may change."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self.online: Cpus = POSSIBLE
        parts[Files].files.update(
            {
                f"{CPU}/possible": text_of(POSSIBLE),
                f"{CPU}/present": text_of(POSSIBLE),
                f"{CPU}/isolated": "",
                f"{NODE}/online": "0-1",
                f"{NODE}/has_memory": "0-1",
                f"{NODE}/node0/cpulist": "0-3",
                f"{NODE}/node1/cpulist": "4-7",
            }
        )

    def read(self, path: str) -> Optional[str]:
        return text_of(self.online) if path == f"{CPU}/online" else None

    def snapshot(self) -> Dict[str, Any]:
        return {f"{CPU}/online": text_of(self.online)}
