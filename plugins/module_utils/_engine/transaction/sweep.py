# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Moves what is forked in a cgroup while it is being emptied."""

from __future__ import annotations

import contextlib
from typing import Callable, Dict, List, Set

from ..errors import Skipped
from ..kernel.cpuset import TASK_AFFINITY, TASK_CGROUP
from ..kernel.task import TaskId, affinity, read_task
from ..model import Address, Change
from ..planning.tasks import follow
from ..planning.view import Sweep, View
from ..resources import Resources
from ..text.cpus import CpuSet, format_list
from .affinity import fit

# Each round finds what was forked while the one before moved tasks: fewer each time.
ROUNDS = 1000


class Sweeper:
    """What was forked in one cgroup since it was planned to be emptied."""

    def __init__(
        self,
        resources: Resources,
        view: View,
        write: Callable[[Address, str], None],
        swept: Dict[str, List[Change]],
    ) -> None:
        """`swept` receives what was moved, by claim: places and affinities."""
        self._host = resources.host
        self._cgroups = resources.cgroups
        self._offline = resources.topology.offline()
        self._view = view
        self._write = write
        self._swept = swept

    def sweep(self, source: str, sweep: Sweep) -> List[str]:
        """Move tasks until none is left that moves. Returns a warning if it gives up."""
        effective = self._cgroups.effective_cpus(source)
        settled: Set[int] = set()
        written: Set[int] = set()
        listed: Set[int] = set()
        for _round in range(ROUNDS):
            found = [task for task in self._cgroups.tasks(source) if task not in settled]
            if not found:
                return []
            # If tasks come and go that fast, only the last in the list is likely to live on.
            raging = bool(listed) and not listed.issuperset(found)
            listed = set(found)
            for number in found[-1:] if raging else found:
                # One that is still listed after it was moved is ending, or has ended except for other threads.
                if number in written or not self._move(source, sweep, number, effective):
                    settled.add(number)
                written.add(number)
        return [f"{source}: tasks kept forking there: gave up moving them after {ROUNDS} rounds"]

    def _move(self, source: str, sweep: Sweep, number: int, effective: CpuSet) -> bool:
        """Move one task at once, since it may end soon. False if it has ended, or stays."""
        view, task, target = self._view, None, sweep.everything_to
        if target is None or target in view.sweeps:
            task = read_task(self._host, number)
            if sweep is view.sweeps.get(source):
                target = follow(view, task, source) if task else None
            else:
                target = sweep.decide(task) if task else None
        if target is None or target == source:
            return False
        before = affinity(self._host, number, self._offline)
        try:
            self._write(Address(TASK_CGROUP, str(task.id if task else TaskId(number, 0))), target)
        except Skipped:
            return False
        task = task or read_task(self._host, number)
        if task:
            changes = self._swept.setdefault(sweep.claim, [])
            changes.append(Change(Address(TASK_CGROUP, task.name), source, target))
            if before and before - self._offline != effective:
                after = fit(before, self._cgroups.effective_cpus(target))
                address = Address(TASK_AFFINITY, task.name)
                changes.append(Change(address, format_list(before), format_list(after)))
                with contextlib.suppress(Skipped):  # it has ended
                    self._write(address, format_list(after))
        return True
