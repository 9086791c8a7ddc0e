# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The kernel's memory: caches to drop, free memory to compact.

Source: Documentation/admin-guide/sysctl/vm.rst (drop_caches, compact_memory), proc(5) (buddyinfo).
"""

from __future__ import annotations

import re
from typing import Dict

from ..errors import IsolationError
from ..text.cpus import CpuSet, parse_list
from .host import Host
from .topology import NODE

DROP = "/proc/sys/vm/drop_caches"
COMPACT_ALL = "/proc/sys/vm/compact_memory"
WITH_MEMORY = f"{NODE}/has_memory"
# The node of all memory, where the kernel knows of no others.
_ONLY_NODE = 0


class Memory:
    """A host's memory."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def _meminfo(self, name: str) -> int:
        match = re.search(rf"^{name}:\s+(\d+) kB", self._host.read("/proc/meminfo") or "", re.MULTILINE)
        return int(match.group(1)) * 1024 if match else 0

    def free(self) -> int:
        """Free memory, in bytes."""
        return self._meminfo("MemFree")

    def sync(self) -> None:
        """Write dirty pages to disk: only clean ones can be dropped."""
        self._host.sync()

    def drop(self, what: int) -> None:
        """Drop caches: 1 the page cache, 2 slab objects, 3 both. Raises Refused."""
        self._host.write(DROP, str(what))

    def nodes(self) -> CpuSet:
        """The NUMA nodes that have memory; a kernel without NUMA has it all in node 0, as /proc/buddyinfo says."""
        listed = self._host.read(WITH_MEMORY)
        return frozenset({_ONLY_NODE}) if listed is None else parse_list(listed)

    def compact(self, node: int) -> None:
        """Compact one NUMA node. Raises Refused, or IsolationError if the kernel cannot compact."""
        path = f"{NODE}/node{node}/compact" if self._host.exists(WITH_MEMORY) else COMPACT_ALL
        if not self._host.exists(path):
            raise IsolationError(f"{path} is missing: this kernel was built without CONFIG_COMPACTION")
        self._host.write(path, "1")

    def huge_page_size(self) -> int:
        """The kernel's default size of huge pages, in bytes."""
        return self._meminfo("Hugepagesize") or 2 << 20

    def huge_blocks(self) -> Dict[int, int]:
        """Free blocks of the default huge page's size, by NUMA node; a larger block counts as several."""
        pages = self.huge_page_size() // self._host.page_size()
        order = pages.bit_length() - 1
        blocks: Dict[int, int] = {}
        for line in (self._host.read("/proc/buddyinfo") or "").splitlines():
            place, counts = re.split(r"zone\s+\S+\s+", line)
            node = int(place.split()[1].rstrip(","))
            free = (int(count) << (index - order) for index, count in enumerate(counts.split()) if index >= order)
            blocks[node] = blocks.get(node, 0) + sum(free)
        return blocks
