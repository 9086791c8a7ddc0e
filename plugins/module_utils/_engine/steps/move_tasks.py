# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""move_tasks: move the tasks of one cgroup to another: processes with all their threads on v2, threads on v1."""

from __future__ import annotations

from typing import Any, ClassVar, Mapping

from ..errors import IsolationError
from ..kernel.cpuset import CPUS, MEMS, TASK_CGROUP
from ..model import Address
from ..planning.step_type import ArgumentSpec, StepType
from ..planning.tasks import move_all
from ..planning.view import View
from ..text import cgroup_path


class MoveTasks(StepType):
    """Every task that is in the source."""

    ARGUMENTS: ClassVar[ArgumentSpec] = {
        "source": {"type": "str", "required": True},
        "target": {"type": "str", "required": True},
        "kernel_threads": {"type": "bool", "default": False},
    }

    def plan(self, arguments: Mapping[str, Any], view: View) -> None:
        """The tasks that are in it now; those that are forked meanwhile follow."""
        source, target = (cgroup_path.from_option(option, arguments[option]) for option in ("source", "target"))
        for option, path in (("source", source), ("target", target)):
            if not view.exists(path):
                raise IsolationError(f"{option}: there is no cgroup {path}")
        if source == target:
            raise IsolationError(f"target: {target} is the source, too")
        if not view.resources.cgroups.inherits:
            for kind, what in ((CPUS, "cpus"), (MEMS, "mems")):
                if not view.get(Address(kind, target)):
                    raise IsolationError(f"target: {target} has no {what} and takes no task; give it some with cpuset")
        staying = move_all(view, source, target, arguments["kernel_threads"])
        if staying:
            view.skips.add(Address(TASK_CGROUP, source), staying)


STEP = MoveTasks()
