# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""kthread_affinity: keep kernel threads off CPUs, those that can be bound, one by one."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from ..errors import IsolationError
from ..planning.view import State
from ..text.cpus import format_list

ARGUMENTS: Dict[str, Any] = {"cpus": {"type": "raw", "required": True}}


def plan(arguments: Mapping[str, Any], state: State) -> None:
    """Each kernel thread keeps what it has of the other CPUs, and gets all of them where it has none."""
    cpus = state.evaluate(arguments["cpus"], "cpus")
    if not state.resources.topology.online() - cpus:
        raise IsolationError(f"cpus: {format_list(cpus)} are all CPUs of this host; kernel threads need one")
    state.keep_off(cpus)
