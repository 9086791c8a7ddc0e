# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""From claims to what would change: the fold over the host's state, and the thread affinities that follow from it.

Nothing here writes.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import IsolationError
from ..kernel.cgroup import parent_of
from ..kernel.host import Host
from ..kernel.task import Task, read_task
from ..model import Change, Claim, Journal, Step
from ..planning.tasks import plan_evacuation, plan_return, resolve_targets
from ..planning.view import NOBODY, Author, State
from ..resources import PLACE, THREAD, Resources
from ..steps.catalog import STEPS, destinations
from ..text.cpus import NONE, CpuSet, format_list, parse_list
from .affinity import Pin, Tree, effective_cpus, targets


class Plan(NamedTuple):
    """What the claims come to on this host."""

    changes: List[Change]
    # What is right, and must still be when the cpusets have changed: threads' affinities, drop-ins.
    keeps: List[Change]
    state: State
    requested: Dict[str, str]  # thread affinities to record, by address
    holds: Dict[str, Set[str]]


def fold(
    resources: Resources,
    journal: Journal,
    claims: Mapping[str, Claim],
    restored: Mapping[str, str],
    *,
    leaving: Sequence[Step] = (),
    only: Optional[Callable[[str, Author], bool]] = None,
) -> Plan:
    """Plan all claims, one over the other.

    They are planned over the actual values, so what others may move (interrupts, within the host's CPUs) is
    satisfied where it is. Only the settings of claims that leave or change, `restored`, start from their baseline;
    `leaving` are the steps of those claims. `only` limits what may change, by address and author.
    """
    state = State(resources, journal, claims, restored)
    held = {address for claim in journal.claims.values() for address in claim.holds}
    for step in leaving:
        if hasattr(STEPS[step.name], "inheritors"):
            STEPS[step.name].inheritors(state, held)
    if leaving:
        plan_return(state, held, destinations(leaving))
    for name, claim in claims.items():
        for position, step in enumerate(claim.steps):
            state.author = Author(name, position, step.name)
            state.was_applied = name in journal.claims and journal.claims[name].steps[position : position + 1] == (
                step,
            )
            try:
                STEPS[step.name].plan(step.arguments, state)
            except IsolationError as error:
                if not state.was_applied:
                    raise
                # One claim must not keep another from being made or given back: what it holds stays as it is.
                state.warnings.append(f"claim {name}, step {position + 1} ({step.name}) cannot be planned now: {error}")
                state.restored = {a: v for a, v in state.restored.items() if a not in claim.holds}
    state.author = NOBODY
    plan_evacuation(state)
    resolve_targets(state)
    if only:
        state.sweeps = {source: sweep for source, sweep in state.sweeps.items() if sweep.claim == NOBODY.claim}
    restored = state.restored
    wanted = {address: value for address, value in restored.items() if not address.startswith(THREAD)}
    wanted.update(state.planned)
    if only:
        wanted = {
            a: value for a, value in wanted.items() if a in state.following or only(a, state.authors.get(a, NOBODY))
        }
    changes = [
        Change(address, state.actual(address) or "", value)
        for address, value in wanted.items()
        if state.actual(address) != value and not _gone(state, address)
    ]
    narrows = _narrows(changes)
    # What set-property writes besides a cgroup is written again, whether or not it is right now; and systemd takes
    # away a controller that no unit asks for any more, though somebody else had enabled it.
    keeps = [
        Change(address, value, value)
        for address, value in wanted.items()
        if narrows and address.startswith(("systemd.", "cgroup.controller:")) and state.actual(address) == value
    ]
    requested: Dict[str, str] = {}
    certain = {a: v for a, v in restored.items() if only and a.startswith(THREAD)}
    narrowing = state.narrowing | {name for name in journal.claims if _holds_threads(journal.claims[name])}
    if narrows or certain or (narrowing and not only) or NOBODY.claim in state.narrowing:
        threads, requested = _threads(resources, journal, state, changes, certain)
        keeps += [thread for thread in threads if thread.before == thread.after] if narrows else []
        changes += [thread for thread in threads if thread.before != thread.after]
    for change in changes:
        if change.address in journal.refused and change.address not in restored:
            state.skip(change.address, journal.refused[change.address])
    changes = [change for change in changes if change.address not in state.skipped]
    holds = {name: set(state.holds.get(name, ())) for name in claims}
    for name in state.narrowing & set(claims):
        holds[name].update(requested)
    return Plan(changes, keeps, state, requested, holds)


def _gone(state: State, address: str) -> bool:
    """Whether a setting is of something that is there no more, and does not come back either: nothing is owed to it."""
    if state.actual(address) is not None:
        return False
    kind, _colon, name = address.partition(":")
    if kind.startswith("cgroup.") and kind != "cgroup.exists":
        return state.get(f"cgroup.exists:{name}") != "present"
    return address not in state.planned


def _holds_threads(claim: Claim) -> bool:
    return any(address.startswith(("cgroup.", THREAD)) for address in claim.holds)


def _threads(
    resources: Resources, journal: Journal, state: State, changes: List[Change], certain: Mapping[str, str]
) -> Tuple[List[Change], Dict[str, str]]:
    recorded = _affinities({**journal.baseline, **certain})
    pins = _pins(resources, state, changes, set(recorded), parse_list(journal.kept_off))
    now = {pin.name: pin.cpus for pin in pins}
    found: List[Change] = []
    requested: Dict[str, str] = {}
    meant = targets(pins, recorded, _affinities(certain), resources.topology.possible())
    for name, (wish, target) in sorted(meant.items()):
        address = f"{THREAD}:{name}"
        requested[address] = format_list(wish)
        found.append(Change(address, format_list(now[name]), format_list(target)))
        state.planned[address] = format_list(target)
    return found, requested


def _affinities(values: Mapping[str, str]) -> Dict[str, CpuSet]:
    """Thread affinities by `TID:START`, out of values by address."""
    return {a.partition(":")[2]: parse_list(value) for a, value in values.items() if a.startswith(THREAD)}


def _pins(resources: Resources, state: State, changes: List[Change], recorded: Set[str], kept_off: CpuSet) -> List[Pin]:
    """The threads whose affinity must be looked after, with the room that their cgroup gives them now and then."""
    known = {int(name.split(":")[0]) for name in recorded}
    tree = list(resources.cgroups.walk())
    before = _rooms_now(resources, tree)
    after = _rooms_then(resources, state, tree) if _narrows(changes) else before
    moved = _moved(resources, changes)
    pins = []
    for path, _children in tree:
        bound = state.kept_off | kept_off if path == "/" else NONE
        for thread in resources.cgroups.threads(path):
            confined = bool(bound) and thread not in moved
            room, then = before[path], after.get(moved.get(thread, path), after[path])
            found = pinned(resources.host, thread, None if confined or thread in known else room)
            if not found:
                continue
            task, cpus = found
            if confined and not resources.cgroups.inherits and not task.is_kernel_thread:
                confined = False  # on v1 the tasks of the host can be moved into a cpuset instead
            if confined:
                room, then = room - kept_off or room, then - state.kept_off or then
            if confined or cpus != room or task.name in recorded:
                pins.append(Pin(task.name, cpus, room, then, confined))
    return pins


def pinned(host: Host, thread: int, room: Optional[CpuSet]) -> Optional[Tuple[Task, CpuSet]]:
    """A thread and its affinity, unless it has just all of the room, has ended, or cannot be bound.

    One system call for most threads; only those that differ have a file of theirs read.
    """
    cpus = host.affinity(thread)
    if cpus is None or cpus == room:
        return None
    task = read_task(host, thread)
    return (task, cpus) if task and not task.is_bound else None


def _narrows(changes: List[Change]) -> bool:
    return any(change.address.startswith(("cgroup.", PLACE)) for change in changes)


def _moved(resources: Resources, changes: List[Change]) -> Dict[int, str]:
    """The cgroup that each thread of a moving task gets to."""
    return {
        thread: change.after
        for change in changes
        if change.address.startswith(PLACE)
        for thread in resources.cgroups.threads_of(int(change.address.split(":")[1]))
    }


def _rooms_now(resources: Resources, tree: Tree) -> Dict[str, CpuSet]:
    """The effective CPUs of every cgroup; one without the controller has those of its nearest ancestor."""
    rooms: Dict[str, CpuSet] = {}
    for path, children in tree:
        own = resources.cgroups.effective(path)
        rooms[path] = own or rooms.get(path) or resources.topology.online()
        for child in children:
            rooms[child] = rooms[path]
    return rooms


def _rooms_then(resources: Resources, state: State, tree: Tree) -> Dict[str, CpuSet]:
    """The effective CPUs of every cgroup once the changes are made, by the kernel's rules."""
    paths = {path for path, _children in tree}
    new = {
        address.partition(":")[2]
        for address, value in {**state.restored, **state.planned}.items()
        if address.startswith("cgroup.exists:") and value == "present"
    } - paths
    born: Dict[str, List[str]] = {}
    for path in sorted(new):
        born.setdefault(parent_of(path), []).append(path)
    listed = [*tree, *((path, []) for path in sorted(new))]
    whole = [(path, children + born.get(path, [])) for path, children in listed]
    configured: Dict[str, CpuSet] = {}
    partitions: Dict[str, CpuSet] = {}
    for path, _children in whole[1:]:
        cpus = state.cpus(f"cgroup.cpus:{path}") if _controlled(state, path) else NONE
        if cpus:
            configured[path] = cpus
            if state.resources.cgroups.inherits and state.get(f"cgroup.partition:{path}") in ("root", "isolated"):
                partitions[path] = cpus
    return effective_cpus(configured, partitions, whole, resources.topology.online())


def _controlled(state: State, path: str) -> bool:
    """Whether a cgroup has (or will have) a cpuset of its own: files are only read where there are any."""
    return not state.resources.cgroups.inherits or state.get(f"cgroup.controller:{parent_of(path)}") == "enabled"
