# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The order in which the settings of a family are written."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Stage(IntEnum):
    """When a value is written. The order of the names is the order of the writes."""

    SET = 0  # whatever depends on nothing else
    DEPENDENT = 1  # what may only be set after that

    # Cgroups
    BIND_KTHREADD = 5  # before what makes systemd or the kernel create threads, which inherit it since Linux 6.2
    DISSOLVE_PARTITION = 10  # before any list changes
    GIVE_UP_EXCLUSIVE = 11  # v1: exclusive means without overlap, so it goes before lists change, leaves first
    CREATE_CGROUP = 12  # parents first
    ENABLE_CONTROLLER = 13  # from the root down
    MIGRATE_MEMORY = 14  # v1: before lists change and tasks arrive
    SHRINK_TO_KEPT = 20  # v2: a CPU in the lists of a partition and of its sibling would invalidate the partition
    LET_GO = 21  # v2: a list that keeps nothing, when partitions have let go of its new CPUs
    GROW_PARTITION = 22  # v2
    GROW_LIST = 23  # v2
    GROW_NESTED = 24  # v1: a list is always part of its parent's: it grows from the root down
    SHRINK_NESTED = 25  # v1: and shrinks from the leaves up
    REWRITE_NESTED = 26  # v1: a list that keeps its value
    FORM_PARTITION = 30  # after all lists have changed
    SET_FLAG = 31  # v1: exclusive again, below a parent that is
    MOVE_TASK = 40  # after all that gives a cpuset its CPUs, before anything is taken away
    SWEEP = 41  # what was forked meanwhile
    DROP_IN = 50  # the last write to a unit, before its cgroup is removed
    REMOVE_CGROUP = 51  # children first
    SHRINK_AGAIN = 52  # v1: a cpuset below it, which is removed by now, kept it from shrinking
    EMPTY_NESTED = 53  # v1: when its tasks have left, and if the cpuset still exists
    RESET_FLAG = 54  # v1
    # From here on, systemd must have reloaded without the removed drop-ins.
    KEEP_CONTROLLER = 60  # systemd disables it when no unit asks for it, even if somebody else enabled it
    WRITE_LIST_AGAIN = 61  # v2: lists that systemd dropped, or that must become empty if the controller stays
    DISABLE_CONTROLLER = 62  # from the leaves up
    BIND_THREAD = 70  # after all that makes the kernel reset affinities

    @property
    def is_behind_systemd(self) -> bool:
        """Whether systemd must have reloaded without the removed drop-ins before."""
        return self >= Stage.KEEP_CONTROLLER


class Write(NamedTuple):
    """One write of a setting: when, what, and and the depth within its stage, the smallest first."""

    stage: Stage
    value: str
    depth: int = 0
