# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""compact_memory: an action that makes free memory contiguous, so that a VM gets huge pages."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from ..errors import IsolationError
from ..planning.view import State
from ..resources import Resources
from ..text.cpus import CpuSet, format_list, parse_list

ARGUMENTS: Dict[str, Any] = {"nodes": {"type": "list", "elements": "str"}}


def _nodes(arguments: Mapping[str, Any], resources: Resources) -> CpuSet:
    there = resources.memory.nodes()
    if arguments["nodes"] is None:
        return there
    try:
        asked = parse_list(",".join(str(node).lstrip("N") for node in arguments["nodes"]))
    except ValueError as error:
        raise IsolationError(f"nodes: {arguments['nodes']}: {error}") from None
    if not asked or asked - there:
        missing = format_list(asked - there) or "''"
        raise IsolationError(f"nodes: there is no NUMA node {missing}; nodes with memory are {format_list(there)}")
    return asked


def plan(arguments: Mapping[str, Any], state: State) -> None:
    """Nothing is claimed, but a node that does not exist is found before anything is changed."""
    _nodes(arguments, state.resources)


def act(arguments: Mapping[str, Any], resources: Resources) -> Dict[str, Any]:
    """Compact. Returns for each node the free blocks of the default huge page's size, before and after."""
    nodes = sorted(_nodes(arguments, resources))
    before = resources.memory.huge_blocks()
    for node in nodes:
        resources.memory.compact(node)
    after = resources.memory.huge_blocks()
    blocks: List[Dict[str, int]] = [
        {"node": node, "before": before.get(node, 0), "after": after.get(node, 0)} for node in nodes
    ]
    return {"free_huge_blocks": blocks}
