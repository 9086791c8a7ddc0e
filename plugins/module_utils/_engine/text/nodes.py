# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""NUMA nodes as options name them: a node list, with or without vfio-isolate's `N`."""

from __future__ import annotations

from typing import Any

from ..errors import IsolationError
from .cpus import CpuSet, format_list, parse_list


def parse_nodes(given: Any, there: CpuSet, option: str) -> CpuSet:
    """The NUMA nodes of an option, as a node list (`0-1`, `N0`) or a list of such. Raises IsolationError."""
    items = given if isinstance(given, list) else [given]
    try:
        nodes = parse_list(",".join(str(item) for item in items).replace("N", ""))
    except ValueError as error:
        raise IsolationError(f"{option}: {given!r}: {error}") from None
    if nodes - there:
        missing = format_list(nodes - there)
        raise IsolationError(f"{option}: there is no NUMA node {missing}; there are {format_list(there)}")
    return nodes
