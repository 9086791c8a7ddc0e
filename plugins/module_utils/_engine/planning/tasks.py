# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Which tasks move, and which move back: those that were moved, with what they forked, and nothing else.

A plan only reads the view and assigns to it; what is forked meanwhile is swept by the same decisions (`Sweep`).
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Optional, Set, Tuple

from ..kernel.cpuset import EXISTS, TASK_CGROUP
from ..kernel.task import Task, TaskId, leader
from ..model import Address, of_kind
from ..text.cgroup_path import parent_of
from .view import NOBODY, Sweep, View

NOT_ASKED = "kernel threads move only if kernel_threads is true"
INIT = 1
BOUND = "kernel threads are bound to their CPUs by the kernel"


def move_all(view: View, source: str, target: str, kernel_threads: bool) -> str:
    """Plan that every task of a cgroup (not of those below it) moves to another. Returns what stays, and why.

    Tasks that were in the target before are remembered: a revert leaves them there, with all that they fork.
    """
    staying: Dict[str, Set[int]] = {BOUND: set(), NOT_ASKED: set()}

    def decide(task: Task) -> Optional[str]:
        reason = BOUND if task.is_kernel_thread and task.is_bound else NOT_ASKED
        if task.is_kernel_thread and (task.is_bound or not kernel_threads):
            staying[reason].add(task.number)
            return None
        return target

    moving = [address for address, task in view.members(source) if decide(task)]
    if view.author.claim and not view.was_applied:
        for address in _residents(view, target):
            view.assign(address, target)
    for address in moving:
        view.assign(address, target)
    # A cgroup without kernel threads will get none: they are forked in the cgroup of kthreadd.
    all_move = source != "/" and not any(staying.values())
    view.sweeps[source] = Sweep(view.author.claim, decide, target if all_move else None)
    return "; ".join(f"{len(tasks)} {reason}" for reason, tasks in staying.items() if tasks)


def _residents(view: View, target: str) -> List[Address]:
    """The tasks that are in a cgroup, except those that a claim moved there and what these forked."""
    baseline = view.journal.baseline
    held = (address for claim in view.journal.claims.values() for address in claim.holds if address in baseline)
    moved = Ancestry(view, of_kind(held, TASK_CGROUP))
    return [
        address for address, task in view.members(target) if not task.is_kernel_thread and moved.of(task)[0] is None
    ]


def plan_return(view: View, held: Set[Address]) -> None:
    """Plan the way back for tasks that leaving claims moved, before any other claim is planned.

    A task that its owner moved elsewhere meanwhile stays there. What claims do not hold comes from a `prior`, of which
    nobody knows who else was in the target: no other task moves.
    """
    moving = [Address(TASK_CGROUP, name) for name in of_kind(view.restored, TASK_CGROUP)]
    moving = [address for address in moving if address in held]
    back = {address.name: view.restored[address] for address in moving}
    given = view.journal.given
    places = {place for address in moving for place in given.get(address, (view.actual(address),))}
    targets = {place for place in places if place and view.actual(Address(EXISTS, place)) == "present"}
    moved = set(of_kind(held, TASK_CGROUP))
    homes = set(back.values()) - targets
    ancestry = Ancestry(view, moved)
    unknown: Dict[str, Set[int]] = {}

    for target in targets:
        members = list(view.members(target))
        # If the cgroup was empty before, an orphan comes from a task that was moved.
        alone = all(task.name in back for _address, task in members if task.name in moved)

        def decide(task: Task, target: str = target, alone: bool = alone) -> Optional[str]:
            if task.is_kernel_thread or view.planned.get(Address(TASK_CGROUP, task.name)) == target:
                return None  # a kernel thread is nobody's child; or a claim wants it here
            known, eldest = ancestry.of(task)
            home = back.get(known or "")
            orphan = eldest.parent <= INIT and view.resources.cgroups.place(eldest.number) == target
            if known is None and orphan and alone and len(homes) == 1:
                (home,) = homes
            if known is None and not home:
                unknown.setdefault(target, set()).add(task.number)
            home = follow(view, task, home) if home else None
            return home if home not in targets else None

        for address, task in members:
            home = decide(task) if task.name not in moved else None
            if home:
                view.assign(address, home)
        view.returns[target] = Sweep(NOBODY.claim, decide)
    for target, tasks in unknown.items():
        reason = f"{len(tasks)} tasks stay, because no moved task forked them"
        view.skips.add(Address(TASK_CGROUP, target), reason)
    places_of = {Address(TASK_CGROUP, name): home for name, home in back.items()}
    elsewhere = {address for address, home in places_of.items() if view.actual(address) not in (None, home, *targets)}
    view.restored = {address: value for address, value in view.restored.items() if address not in elsewhere}


def plan_evacuation(view: View) -> None:
    """Plan that tasks left in a cgroup that goes away move to its parent: the kernel removes only empty ones.

    On v2 only the root takes tasks beside cgroups with controllers; elsewhere a cgroup with tasks stays.
    """
    cgroups = view.resources.cgroups
    for cgroup, value in list(view.to_come(EXISTS)):
        takes_tasks = parent_of(cgroup) == "/" or not cgroups.inherits
        if value != "absent" or not takes_tasks or cgroups.owner(cgroup) is not None:
            continue
        if view.actual(Address(EXISTS, cgroup)) == "present":
            _evict(view, cgroup)


def _evict(view: View, cgroup: str) -> None:
    sweep = view.returns.get(cgroup)
    parent = parent_of(cgroup)
    while not view.exists(parent):
        parent = parent_of(parent)

    def decide(task: Task) -> str:
        return (sweep.decide(task) if sweep else None) or parent

    for address, task in list(view.members(cgroup)):
        view.assign(address, decide(task))
        view.following.add(address)
    view.returns[cgroup] = Sweep(NOBODY.claim, decide)
    view.skips.discard(Address(TASK_CGROUP, cgroup))


def follow(view: View, task: Task, start: str) -> str:
    """The cgroup in which a task in this cgroup ends up: further on, if that one is to be emptied, too.

    If steps lead in a circle, it stays where the last of them wants it.
    """
    place, seen = start, {start}
    while place in view.sweeps:
        further = view.sweeps[place].decide(task)
        if further == start:
            return start
        if further is None or further in seen:
            break
        seen.add(further)
        place = further
    return place


def resolve_targets(view: View) -> None:
    """Plan where each moved task ends up, whatever the order of the steps that move tasks."""
    for name in list(of_kind(view.planned, TASK_CGROUP)):
        address, known = Address(TASK_CGROUP, name), TaskId.parse(name)
        place = view.planned[address]
        task = view.task(known.number) if known and place in view.sweeps else None
        if task:
            view.planned[address] = follow(view, task, place)


class Ancestry:
    """Whose child a task is, among known ones."""

    def __init__(self, view: View, known: Iterable[str]) -> None:
        """`known` are tasks as addresses name them."""
        self._view = view
        self._known: Dict[int, Dict[int, str]] = {}
        for name in known:
            task = TaskId.parse(name)
            if task:
                self._known.setdefault(task.number, {})[task.start] = name

    def of(self, task: Task) -> Tuple[Optional[str], Task]:
        """The name of the nearest known task: itself, its process, its parent, and so on; or by its session.

        A task whose parent has ended is init's child. The id of its process group or session is not used again while
        one of their processes lives, so it leads to the right one then. If none is known: None, and the eldest living
        ancestor.
        """
        line: List[Task] = []
        while self._known and task not in line:
            line.append(task)
            for number in (task.number, leader(self._view.resources.host, task.number)):
                if self._name(number):
                    return self._name(number), task
            task = (self._view.task(task.parent) if task.parent > INIT else None) or task
        for number in (number for one in line for number in (one.group, one.session)):
            if self._name(number):
                return self._name(number), task
        return self._name(INIT), task

    def _name(self, number: int) -> Optional[str]:
        starts = self._known.get(number)
        if not starts:
            return None
        alive = self._view.task(number)
        return starts.get(alive.id.start) if alive else starts[max(starts)]
