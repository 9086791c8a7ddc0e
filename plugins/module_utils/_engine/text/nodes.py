# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""NUMA nodes as options name them: a node list, with or without vfio-isolate's `N`."""

from __future__ import annotations

import re
from typing import Any

from ..errors import IsolationError
from .cpus import CpuSet, format_list, parse_list

# Only in front of a number: N1N2 is not node 12.
_PREFIX = r"(?:(?<=[,\s-])|^)N(?=[0-9])"


def parse_nodes(given: Any, available: CpuSet, option: str) -> CpuSet:
    """The NUMA nodes of an option, as a node list (`0-1`, `N0`, `N0-1`) or a list of these.

    Raises IsolationError if it cannot be read, or names a node that is not `available`.
    """
    items = given if isinstance(given, list) else [given]
    try:
        nodes = parse_list(re.sub(_PREFIX, "", ",".join(str(item).strip() for item in items)))
    except ValueError as error:
        raise IsolationError(f"{option}: {given!r}: {error}") from None
    if nodes - available:
        missing = format_list(nodes - available)
        raise IsolationError(
            f"{option}: there is no NUMA node {missing}; nodes with memory are {format_list(available)}"
        )
    return nodes
