# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""move_tasks: move the processes of one cgroup, with all their threads, to another."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from .._errors import IsolationError
from .._kernel.threads import is_kernel_thread
from .._state import State

ARGUMENTS: Dict[str, Any] = {
    "source": {"type": "str", "required": True},
    "target": {"type": "str", "required": True},
}


def plan(arguments: Mapping[str, Any], state: State) -> None:
    """Every process that is in the source now; the transaction plans again until none is left."""
    cgroups = state.resources.cgroups
    paths = {}
    for option in ("source", "target"):
        paths[option] = "/" + arguments[option].strip("/")
        if state.get(f"cgroup.exists:{paths[option]}") != "present":
            raise IsolationError(f"{option}: there is no cgroup {paths[option]}")
    if paths["source"] == paths["target"]:
        raise IsolationError(f"target: {paths['target']} is the source, too")
    kernel_threads = 0
    for pid in cgroups.processes(paths["source"]):
        if is_kernel_thread(cgroups.host, pid):
            kernel_threads += 1
            continue
        state.move(pid, paths["target"])
    if kernel_threads:
        state.skip(f"task.cgroup:{paths['source']}", f"{kernel_threads} kernel threads stay in the root cgroup")
