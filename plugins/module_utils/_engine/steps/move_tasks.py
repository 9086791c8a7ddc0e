# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""move_tasks: move the tasks of one cgroup to another: processes with all their threads on v2, threads on v1."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from ..errors import IsolationError
from ..planning.tasks import move_all
from ..planning.view import State
from ..resources import PLACE

ARGUMENTS: Dict[str, Any] = {
    "source": {"type": "str", "required": True},
    "target": {"type": "str", "required": True},
    "kernel_threads": {"type": "bool", "default": False},
}


def plan(arguments: Mapping[str, Any], state: State) -> None:
    """Every task that is in the source now."""
    paths = {option: "/" + arguments[option].strip("/") for option in ("source", "target")}
    for option, path in paths.items():
        if not state.resources.kinds["cgroup.exists"].valid_name(path):
            raise IsolationError(f"{option}: {arguments[option]!r} is not the path of a cgroup")
        if state.get(f"cgroup.exists:{path}") != "present":
            raise IsolationError(f"{option}: there is no cgroup {path}")
    source, target = paths["source"], paths["target"]
    if source == target:
        raise IsolationError(f"target: {target} is the source, too")
    if not state.resources.cgroups.inherits:
        for kind in ("cpus", "mems"):
            if not state.get(f"cgroup.{kind}:{target}"):
                raise IsolationError(f"target: {target} has no {kind} and takes no task; give it some with cpuset")
    staying = move_all(state, source, target, arguments["kernel_threads"])
    if staying:
        state.skip(f"{PLACE}:{source}", staying)


def destinations(arguments: Mapping[str, Any]) -> List[str]:
    """Where tasks were moved to."""
    return ["/" + arguments["target"].strip("/")]
