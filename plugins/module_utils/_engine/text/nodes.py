# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""NUMA nodes as options name them: a node list, with or without vfio-isolate's `N`."""

from __future__ import annotations

import re
from typing import Any, Optional, Sequence

from ..errors import IsolationError, as_text, quoted
from .cpus import CpuSet, format_list, parse_list

# Only in front of a number: N1N2 is not node 12.
_PREFIX = r"(?:(?<=[,\s-])|^)N(?=[0-9])"


def parse_nodes(given: Any, available: CpuSet, option: str) -> CpuSet:
    """The NUMA nodes of an option, as a node list (`0-1`, `N0`, `N0-1`) or a list of these.

    Raises IsolationError if it cannot be read, or names a node that is not `available`.
    """
    items = given if isinstance(given, list) else [given]
    try:
        nodes = parse_list(re.sub(_PREFIX, "", ",".join(as_text(item).strip() for item in items)))
    except ValueError as error:
        raise IsolationError(f"{option}: {quoted(given)}: {error}") from None
    if nodes - available:
        missing = format_list(nodes - available)
        raise IsolationError(
            f"{option}: there is no NUMA node {missing}; nodes with memory are {format_list(available)}"
        )
    return nodes


def parse_nodes_or_all(given: Optional[Sequence[str]], available: CpuSet) -> CpuSet:
    """The NUMA nodes of the option `nodes`; all that are available if it is not given. Raises IsolationError."""
    nodes = available if given is None else parse_nodes(given, available, "nodes")
    if not nodes:
        raise IsolationError(f"nodes: no NUMA node is named; nodes with memory are {format_list(available)}")
    return nodes
