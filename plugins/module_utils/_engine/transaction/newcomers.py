# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Kernel threads that began since the last run. The kernel gives them all CPUs, so a living host has some at times."""

from __future__ import annotations

from typing import List, Sequence, Tuple

from ..kernel.task import TaskId, read_task
from ..model import Change, Journal
from ..resources import Resources


def apart(resources: Resources, journal: Journal, changes: Sequence[Change]) -> Tuple[List[Change], List[Change]]:
    """The changes without those of newcomers, and these: what no run has seen cannot have drifted.

    Only kernel threads of the root cgroup: the kernel creates them as it needs them, for PSI triggers, file systems or
    disks, and the next run binds them. Any other thread got its CPUs from somebody.
    """
    drift: List[Change] = []
    newcomers: List[Change] = []
    for change in changes:
        unseen = resources.kind(change.address).records_request and change.address not in journal.baseline
        thread = TaskId.parse(change.address.name) if unseen else None
        task = read_task(resources.host, thread.number) if thread else None
        if task and task.id == thread:
            is_new = task.is_kernel_thread and resources.cgroups.place(task.number) == "/"
            (newcomers if is_new else drift).append(change)
        elif not thread:  # else it has ended meanwhile
            drift.append(change)
    return drift, newcomers
