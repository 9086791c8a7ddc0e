# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Huge pages: the pool of each NUMA node and size.

Source: Documentation/admin-guide/mm/hugetlbpage.rst, Documentation/ABI/testing/sysfs-kernel-mm-hugepages.
"""

from __future__ import annotations

import re
from typing import List, Optional

from ..errors import Skipped
from .host import Host
from .sysfs import Number
from .topology import NODE

# The name of the kind.
HUGEPAGES = "memory.hugepages"
ALL_POOLS = "/sys/kernel/mm/hugepages"


class Hugepages(Number):
    """`memory.hugepages:node0/2048kB`: the number of huge pages of a size on a NUMA node, in use or not."""

    adds_up = True

    def __init__(self, host: Host) -> None:
        super().__init__(host, "hugepages", "node[0-9]{1,9}/[0-9]{1,9}kB", self._file)

    def write(self, name: str, value: str) -> None:
        """Set the number. The kernel takes it, and allocates as many as it can."""
        super().write(name, value)
        now = self.read(name)
        if now and int(now) > int(value):
            in_use = int(now) - int(value)
            raise Skipped(f"{in_use} pages are still in use: the kernel frees each when it is no longer in use")

    def explain(self, name: str, wanted: str, now: Optional[str]) -> str:
        """The kernel could allocate only fewer pages than wanted."""
        return (
            f"{self.where(name)}: the kernel could allocate only {now} of {wanted} huge pages; reserve fewer, or put"
            " drop_caches and compact_memory before this step"
        )

    def sizes(self, node: int) -> List[int]:
        """The sizes of huge pages that a NUMA node has a pool for, in KiB; none if the kernel has no huge pages."""
        names = self._host.list(self._pools(f"node{node}"))
        matches = (re.match(r"hugepages-([0-9]{1,9})kB\Z", name) for name in names)
        return sorted(int(match[1]) for match in matches if match)

    def _file(self, name: str) -> str:
        node, _slash, size = name.partition("/")
        return f"{self._pools(node)}/hugepages-{size}/nr_hugepages"

    def _pools(self, node: str) -> str:
        """A directory for each size; a kernel without NUMA has them for all its memory."""
        return f"{NODE}/{node}/hugepages" if self._host.exists(NODE) else ALL_POOLS
