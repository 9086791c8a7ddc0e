# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""hugepages: reserve huge pages on NUMA nodes; what several claims reserve adds up."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Dict, List, Mapping

from ..errors import IsolationError, quoted
from ..kernel.hugepages import HUGEPAGES
from ..model import Address
from ..planning.step_type import ArgumentSpec, StepType
from ..planning.view import View
from ..text.cpus import format_list, parse_list
from ..text.nodes import parse_nodes_or_all

UNITS = {"kB": 1, "K": 1, "M": 1 << 10, "G": 1 << 20}

MOST_PAGES = 10**12  # more than any host has memory for


class Reserved(Dict[Address, int]):
    """What the steps of all claims reserve so far."""


class ReserveHugepages(StepType):
    """The pool has what it had before any claim, plus what the claims reserve; a larger pool is left as it is."""

    ARGUMENTS: ClassVar[ArgumentSpec] = {
        "pages": {"type": "int", "required": True},
        "size": {"type": "str"},
        "nodes": {"type": "list", "elements": "str"},
    }

    def plan(self, arguments: Mapping[str, Any], view: View) -> None:
        """The number of pages on each of the nodes."""
        pages = arguments["pages"]
        if not 0 < pages <= MOST_PAGES:
            raise IsolationError(f"pages: {quoted(pages)} is not a number of pages; expected 1 to {MOST_PAGES}")
        reserved = view.shared(Reserved)
        available = view.resources.memory.nodes()
        nodes = view.grant("nodes", lambda: format_list(parse_nodes_or_all(arguments["nodes"], available)))
        for node in sorted(parse_list(nodes)):
            address = Address(HUGEPAGES, f"node{node}/{_size(arguments['size'], node, view)}kB")
            reserved[address] = reserved.get(address, 0) + pages
            wanted = int(view.baseline(address)) + reserved[address]
            view.assign(address, str(max(wanted, int(view.get(address)))))


def _size(given: Any, node: int, view: View) -> int:
    """The size of the pages in KiB: as given, or the kernel's default."""
    sizes: List[int] = view.resources.hugepages.sizes(node)
    if not sizes:
        raise IsolationError("size: this kernel has no huge pages; it was built without CONFIG_HUGETLBFS")
    match = re.match(r"([0-9]{1,9})(kB|K|M|G)\Z", given or f"{view.resources.memory.huge_page_size() >> 10}kB")
    size = int(match[1]) * UNITS[match[2]] if match else 0
    if size not in sizes:
        available = ", ".join(f"{one}kB" for one in sizes)
        raise IsolationError(
            f"size: {quoted(given)} is not a size of huge pages on NUMA node {node}; there are {available}"
        )
    return size


STEP = ReserveHugepages()
