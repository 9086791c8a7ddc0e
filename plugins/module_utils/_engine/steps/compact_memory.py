# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""compact_memory: an action that makes free memory contiguous, so that a VM gets huge pages."""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Mapping

from ..planning.step_type import ArgumentSpec, StepType
from ..planning.view import View
from ..resources import Resources
from ..text.nodes import parse_nodes_or_all


class CompactMemory(StepType):
    """Nothing is claimed."""

    ARGUMENTS: ClassVar[ArgumentSpec] = {"nodes": {"type": "list", "elements": "str"}}
    acts = True

    def plan(self, arguments: Mapping[str, Any], view: View) -> None:
        """Check the nodes before anything is changed."""
        parse_nodes_or_all(arguments["nodes"], view.resources.memory.nodes())

    def act(self, arguments: Mapping[str, Any], resources: Resources) -> Dict[str, Any]:
        """Compact. Returns for each node the free blocks of the default huge page's size, before and after."""
        nodes = sorted(parse_nodes_or_all(arguments["nodes"], resources.memory.nodes()))
        before = resources.memory.huge_blocks()
        for node in nodes:
            resources.memory.compact(node)
        after = resources.memory.huge_blocks()
        blocks = [{"node": node, "before": before.get(node, 0), "after": after.get(node, 0)} for node in nodes]
        return {"free_huge_blocks": blocks}


STEP = CompactMemory()
