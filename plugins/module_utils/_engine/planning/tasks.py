# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Which tasks move, and which follow them back: those that were moved, with what they forked, and nothing else.

A plan only reads and assigns in the state; what is forked meanwhile is swept by the same decisions (`Sweep`).
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Optional, Set, Tuple

from ..kernel.cgroup import parent_of
from ..kernel.task import Task, leader
from ..resources import PLACE
from .view import NOBODY, State, Sweep

NOT_ASKED = "kernel threads move only where kernel_threads is true"
INIT = 1
BOUND = "kernel threads are bound to their CPUs by the kernel"


def move_all(state: State, source: str, target: str, kernel_threads: bool) -> str:
    """Plan that every task of a cgroup, without those below it, moves to another. Returns what stays, and why.

    Those that are in the target before are remembered: on the way back they stay, with all that they fork.
    """
    staying: Dict[str, Set[int]] = {BOUND: set(), NOT_ASKED: set()}

    def decide(task: Task) -> Optional[str]:
        reason = BOUND if task.is_kernel_thread and task.is_bound else NOT_ASKED
        if task.is_kernel_thread and (task.is_bound or not kernel_threads):
            staying[reason].add(task.id)
            return None
        return target

    moving = [address for address, task in state.members(source) if decide(task)]
    if state.author.claim and not state.was_applied:
        for address in _residents(state, target):
            state.assign(address, target)
    for address in moving:
        state.assign(address, target)
    # Where there is no kernel thread, none will be: they are born where kthreadd is.
    alike = source != "/" and not any(staying.values())
    state.sweeps[source] = Sweep(state.author.claim, decide, target if alike else None)
    return "; ".join(f"{len(tasks)} {reason}" for reason, tasks in staying.items() if tasks)


def _residents(state: State, target: str) -> List[str]:
    """The tasks that are in a cgroup, but for those that a claim moved there, and what they have forked."""
    baseline = state.journal.baseline
    moved = Ancestry(state, (a for claim in state.journal.claims.values() for a in claim.holds if a in baseline))
    return [
        address for address, task in state.members(target) if not task.is_kernel_thread and moved.of(task)[0] is None
    ]


def plan_return(state: State, held: Set[str], places: Iterable[str]) -> None:
    """Plan the way back from the places that leaving claims moved tasks to, before any other claim is planned.

    What its owner has moved elsewhere meanwhile stays there.
    """
    targets = {place for place in places if state.actual(f"cgroup.exists:{place}") == "present"}
    back = {address: value for address, value in state.restored.items() if address.startswith(PLACE)}
    if not back:
        return
    homes = set(back.values()) - targets
    ancestry = Ancestry(state, (address for address in held if address.startswith(PLACE)))
    unknown: Dict[str, Set[int]] = {}

    for target in targets:
        members = list(state.members(target))
        # Where nobody was before, an orphan is of those that were moved.
        alone = all(address in back for address, _task in members if address in held)

        def decide(task: Task, target: str = target, alone: bool = alone) -> Optional[str]:
            if task.is_kernel_thread or state.planned.get(f"{PLACE}:{task.name}") == target:
                return None  # nobody's child; a claim wants it here
            known, eldest = ancestry.of(task)
            home = back.get(known or "")
            orphan = eldest.parent <= INIT and state.resources.cgroups.place(eldest.id) == target
            if known is None and orphan and alone and len(homes) == 1:
                (home,) = homes
            if known is None and not home:
                unknown.setdefault(target, set()).add(task.id)
            home = follow(state, task, home) if home else None
            return home if home not in targets else None

        for address, task in members:
            home = decide(task) if address not in held else None
            if home:
                state.assign(address, home)
        state.returns[target] = Sweep(NOBODY.claim, decide)
    for target, tasks in unknown.items():
        state.skip(f"{PLACE}:{target}", f"{len(tasks)} tasks stay, which no task that was moved has forked")
    elsewhere = {address for address, home in back.items() if state.actual(address) not in (None, home, *targets)}
    state.restored = {address: value for address, value in state.restored.items() if address not in elsewhere}


def plan_evacuation(state: State) -> None:
    """Plan that what is left in a cgroup that goes away moves to its parent: the kernel removes none with tasks.

    On v2 only the root takes tasks beside cgroups with controllers; elsewhere a cgroup with tasks stays.
    """
    cgroups = state.resources.cgroups
    for address, value in {**state.restored, **state.planned}.items():
        kind, _colon, cgroup = address.partition(":")
        if kind != "cgroup.exists" or value != "absent" or state.get(address) != value:
            continue
        takes_tasks = parent_of(cgroup) == "/" or not cgroups.inherits
        if takes_tasks and cgroups.owner(cgroup) is None and state.actual(address) == "present":
            _evict(state, cgroup)


def _evict(state: State, cgroup: str) -> None:
    sweep = state.returns.get(cgroup)
    parent = parent_of(cgroup)
    while state.get(f"cgroup.exists:{parent}") != "present":
        parent = parent_of(parent)

    def decide(task: Task) -> str:
        return (sweep.decide(task) if sweep else None) or parent

    for address, task in list(state.members(cgroup)):
        state.assign(address, decide(task))
        state.following.add(address)
    state.returns[cgroup] = Sweep(NOBODY.claim, decide)
    state.skipped.pop(f"{PLACE}:{cgroup}", None)


def follow(state: State, task: Task, start: str) -> str:
    """Where a task ends that is in a cgroup, or goes there: on, where that one is to be emptied, too.

    Where steps lead in a circle, it stays where the last of them wants it.
    """
    place, seen = start, {start}
    while place in state.sweeps:
        further = state.sweeps[place].decide(task)
        if further == start:
            return start
        if further is None or further in seen:
            break
        seen.add(further)
        place = further
    return place


def resolve_targets(state: State) -> None:
    """Plan the end of each way, whatever the order of the steps that say where tasks go."""
    for address, place in state.planned.items():
        if address.startswith(PLACE) and place in state.sweeps:
            task = state.task(int(address.split(":")[1]))
            state.planned[address] = follow(state, task, place) if task else place


class Ancestry:
    """Whose child a task is, among those that are known by the addresses of their places."""

    def __init__(self, state: State, addresses: Iterable[str]) -> None:
        self._state = state
        self._known: Dict[int, Dict[int, str]] = {}
        for address in addresses:
            if address.startswith(PLACE):
                number, start = address.split(":")[1:]
                self._known.setdefault(int(number), {})[int(start)] = address

    def of(self, task: Task) -> Tuple[Optional[str], Task]:
        """The address of the nearest known task: itself, its process, its parent, and so on; or by its session.

        A task whose parent has ended is init's child. The id of its process group or session is not used again while
        one of their processes lives, so it leads to the right one then. Where none is known: None, and the eldest
        ancestor that lives.
        """
        line: List[Task] = []
        while self._known and task not in line:
            line.append(task)
            for number in (task.id, leader(self._state.resources.host, task.id)):
                if self._address(number):
                    return self._address(number), task
            task = (self._state.task(task.parent) if task.parent > INIT else None) or task
        for number in (number for one in line for number in (one.group, one.session)):
            if self._address(number):
                return self._address(number), task
        return self._address(INIT), task

    def _address(self, number: int) -> Optional[str]:
        starts = self._known.get(number)
        if not starts:
            return None
        alive = self._state.task(number)
        return starts.get(alive.start) if alive else starts[max(starts)]
