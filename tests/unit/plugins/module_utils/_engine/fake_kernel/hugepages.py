# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pools of huge pages, by NUMA node: the kernel gives as many as it has."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import (
    Difference,
    Part,
    Parts,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import NODE
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Baseline

SIZES = ("2048kB", "1048576kB")


class HugepagePools(Part):
    """`pages` by node and size, `available` how many the kernel can give at most, `in_use` what it cannot take back."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self.pages = {f"node{node}/{size}": 0 for node in (0, 1) for size in SIZES}
        self.available = dict.fromkeys(self.pages, 1000)
        self.in_use = dict.fromkeys(self.pages, 0)

    def read(self, path: str) -> Optional[str]:
        name = _name(path)
        return str(self.pages[name]) if name in self.pages else None

    def list(self, path: str) -> Optional[List[str]]:
        match = re.match(NODE + r"/node[01]/hugepages\Z", path)
        return sorted(f"hugepages-{size}" for size in SIZES) if match else None

    def write(self, path: str, value: str) -> bool:
        name = _name(path)
        if name not in self.pages:
            return False
        self.pages[name] = max(min(int(value), self.available[name]), self.in_use[name])
        return True

    def snapshot(self) -> Dict[str, Any]:
        return {f"huge pages {name}": pages for name, pages in self.pages.items()}

    @staticmethod
    def address(seen: Difference) -> Optional[str]:
        what, _space, name = seen.line.rpartition(" ")
        return f"hugepages:{name}" if what == "huge pages" else None


def _name(path: str) -> str:
    match = re.match(NODE + r"/(node\d+)/hugepages/hugepages-(\d+kB)/nr_hugepages\Z", path)
    return f"{match[1]}/{match[2]}" if match else ""
