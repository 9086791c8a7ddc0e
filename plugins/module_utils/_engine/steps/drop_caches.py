# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""drop_caches: an action that frees the page cache, slab objects or both."""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Mapping

from ..planning.step_type import ArgumentSpec, StepType
from ..resources import Resources

_BITS = {"page_cache": 1, "slab_objects": 2, "all": 3}


class DropCaches(StepType):
    """Nothing is claimed: what was dropped cannot be restored."""

    ARGUMENTS: ClassVar[ArgumentSpec] = {
        "what": {"type": "str", "choices": ["page_cache", "slab_objects", "all"], "default": "all"},
        "sync": {"type": "bool", "default": True},
    }
    acts = True

    def act(self, arguments: Mapping[str, Any], resources: Resources) -> Dict[str, Any]:
        """Drop the caches. Returns the memory that became free, in bytes."""
        memory = resources.memory
        if arguments["sync"]:
            memory.sync()
        before = memory.free()
        memory.drop(_BITS[arguments["what"]])
        return {"freed_bytes": max(0, memory.free() - before)}


STEP = DropCaches()
