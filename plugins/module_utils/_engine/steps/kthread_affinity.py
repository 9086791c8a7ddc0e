# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""kthread_affinity: keep kernel threads that can be bound off CPUs, one by one."""

from __future__ import annotations

from typing import Any, ClassVar, Mapping

from ..errors import IsolationError
from ..planning.step_type import ArgumentSpec, StepType
from ..planning.view import View
from ..text.cpus import format_list


class KthreadAffinity(StepType):
    """Each kernel thread keeps those of the other CPUs that it has, and gets all of them if it has none."""

    ARGUMENTS: ClassVar[ArgumentSpec] = {"cpus": {"type": "raw", "required": True}}

    def plan(self, arguments: Mapping[str, Any], view: View) -> None:
        """Keep the threads of the root cgroup off the CPUs."""
        cpus = view.evaluate(arguments["cpus"], "cpus")
        if not view.resources.topology.online() - cpus:
            raise IsolationError(f"cpus: {format_list(cpus)} are all CPUs of this host; kernel threads need one")
        view.keep_off(cpus)


STEP = KthreadAffinity()
