# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The threads of a host whose affinities are destroyed by planned changes, or that are to be kept off CPUs."""

from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from ..kernel.cpuset import CONTROLLER, CPUS, EXISTS, TASK_AFFINITY
from ..kernel.host import Host
from ..kernel.task import Task, TaskId, affinity, read_task
from ..model import Address, Change, Values, of_kind
from ..planning.cpusets import is_partition
from ..planning.view import View
from ..text.cgroup_path import parent_of
from ..text.cpus import NONE, CpuSet, format_list, parse_list
from .affinity import Pin, Tree, effective_cpus, fit, requested_affinity


class Threads(NamedTuple):
    """For each pinned thread the affinity that it is to have, changed or not, and the one that it requested.

    Of these, a thread is `owed` CPUs that are offline: the kernel lets nobody bind it to them now.
    """

    changes: List[Change]
    requested: Dict[Address, str]
    given: Dict[Address, Tuple[str, ...]]
    owed: Set[Address]


def plan_threads(view: View, changes: List[Change], certain: Values) -> Threads:
    """The affinities that threads are to have after these changes; those in `certain` are restored as they are."""
    topology, sure = view.resources.topology, _affinities(certain)
    online, everything = topology.online(), topology.possible()
    recorded, given = _affinities({**view.journal.baseline, **certain}), view.journal.given
    found = Threads([], {}, {}, set())
    for pin in sorted(_pins(view, changes, set(recorded)), key=lambda pin: pin.name):
        name, address = pin.name, Address(TASK_AFFINITY, pin.name)
        ours = [parse_list(cpus) for cpus in given.get(address, ())]
        requested = sure.get(name) or requested_affinity(pin, recorded.get(name), ours, online, everything)
        found.requested[address] = format_list(requested)
        now, cpus = pin.cpus & online, fit(requested, pin.after)
        # What the kernel gave it of CPUs that are offline would be its own when they are online.
        if requested & pin.after and pin.cpus & topology.offline() - requested:
            now = pin.cpus
        # Since Linux 6.2, user threads get CPUs that are offline back by themselves, if they have asked for these.
        target = format_list(cpus | (requested & pin.spare) if requested & pin.after else cpus)
        found.changes.append(Change(address, target if now == cpus else format_list(now), target))
        # The kernel leaves out what is offline, and what is right already is not written.
        has = [cpus, pin.cpus] if now == cpus else [cpus]
        found.given[address] = tuple(dict.fromkeys((target, *map(format_list, has))))
        # A user thread that is bound to nothing is given CPUs that are offline, or the kernel gives it these itself.
        if requested & topology.present() - online and (pin.is_kernel_thread or requested != everything):
            found.owed.add(address)
        view.planned[address] = target
    return found


def pinned(host: Host, thread: int, effective: Optional[CpuSet], offline: CpuSet) -> Optional[Tuple[Task, CpuSet]]:
    """A thread and its affinity, unless it has just all effective CPUs, has ended, or cannot be bound.

    One system call for most threads; a file is read only for those that differ, or if present CPUs are offline.
    """
    cpus = affinity(host, thread, offline)
    if cpus is None or (effective and cpus in (effective, effective | offline)):
        return None
    task = read_task(host, thread)
    return (task, cpus) if task and not task.is_bound else None


def resets_affinities(view: View, changes: List[Change]) -> bool:
    """Whether writing these settings makes the kernel reset affinities."""
    return any(view.resources.kind(change.address).resets_affinities for change in changes)


def requested_by_reset(view: View, changes: List[Change], requested: Dict[Address, str]) -> Dict[Address, str]:
    """What those threads requested whose affinities the kernel may reset when these changes are undone."""
    moved: Set[int] = set()  # moving a task resets its own threads only
    others = []
    for change in changes:
        threads = view.resources.kind(change.address).moved_threads(change.address.name)
        moved.update(threads)
        if not threads:
            others.append(change)
    if resets_affinities(view, others):
        return requested
    numbers = {address: TaskId.parse(address.name) for address in requested}
    return {address: requested[address] for address, thread in numbers.items() if thread and thread.number in moved}


def _affinities(values: Values) -> Dict[str, CpuSet]:
    """Thread affinities by the thread's name."""
    return {name: parse_list(values[Address(TASK_AFFINITY, name)]) for name in of_kind(values, TASK_AFFINITY)}


def _pins(view: View, changes: List[Change], recorded: Set[str]) -> List[Pin]:
    """The threads whose affinity must be kept, with the effective CPUs of their cgroup now and afterwards."""
    resources = view.resources
    ids = (TaskId.parse(name) for name in recorded)
    known = {task.number for task in ids if task}
    tree = list(resources.cgroups.walk())
    before = _effective_now(view, tree)
    after = _effective_then(view, tree) if resets_affinities(view, changes) else before
    moved = _moved(view, changes)
    topology = resources.topology
    offline = topology.offline()
    # Since Linux 6.2, threads may keep the CPUs of a cpuset that goes, and do not get those that come online later.
    cpusets_go = bool(offline) and "disabled" in (value for _cgroup, value in view.to_come(CONTROLLER))
    pins = []
    for path, _children in tree:
        kept_off_now = parse_list(view.journal.kept_off) if path == "/" else NONE
        kept_off_then = view.kept_off if path == "/" else NONE
        allowed_now = before[path] - kept_off_now or before[path]
        unbound = _unbound(view, path, {before[path], allowed_now}, offline)
        for thread in resources.cgroups.threads(path):
            confined = bool(kept_off_now | kept_off_then) and thread not in moved
            effective, then = before[path], after.get(moved.get(thread, path), after[path])
            # Those of the root have CPUs that are offline, until they are reset; then they do not get these back.
            every = confined or thread in known or (offline and path == "/") or cpusets_go
            found = pinned(resources.host, thread, None if every else effective, offline)
            if not found:
                continue
            task, cpus = found
            if confined and not resources.cgroups.inherits and not task.is_kernel_thread:
                confined = False  # on v1 the tasks of the host can be moved into a cpuset instead
            if confined:
                effective, then = allowed_now, then - kept_off_then or then
            if every or cpus not in unbound or task.name in recorded:
                pins.append(
                    Pin(task.name, cpus, effective, then, offline - kept_off_then, unbound, task.is_kernel_thread)
                )
    return pins


def _unbound(view: View, path: str, effective: Set[CpuSet], offline: CpuSet) -> Set[CpuSet]:
    """The affinities that threads of a cgroup have that are bound to nothing, or that the kernel or we have reset.

    Those of the root have CPUs that are offline, too, unless these are a partition's.
    """
    if path != "/" or not offline or not view.resources.cgroups.inherits:
        return effective | {cpus | offline for cpus in effective}
    partitions = [child for child in view.resources.cgroups.children("/") if is_partition(view.actual, child)]
    taken = NONE.union(*(parse_list(view.actual(Address(CPUS, child)) or "") for child in partitions))
    return {cpus | some for cpus in effective for some in (offline, offline - taken)}


def _moved(view: View, changes: List[Change]) -> Dict[int, str]:
    """The cgroup that each thread of a moving task moves to."""
    return {
        thread: change.after
        for change in changes
        for thread in view.resources.kind(change.address).moved_threads(change.address.name)
    }


def _effective_now(view: View, tree: Tree) -> Dict[str, CpuSet]:
    """The effective CPUs of every cgroup; one without the controller has those of its nearest ancestor."""
    effective: Dict[str, CpuSet] = {}
    for path, children in tree:
        own = view.resources.cgroups.effective(path)
        effective[path] = own or effective.get(path) or view.resources.topology.online()
        for child in children:
            effective[child] = effective[path]
    return effective


def _effective_then(view: View, tree: Tree) -> Dict[str, CpuSet]:
    """The effective CPUs of every cgroup once the changes are made, by the kernel's rules."""
    paths = {path for path, _children in tree}
    new = {path for path, value in view.to_come(EXISTS) if value == "present"} - paths
    created: Dict[str, List[str]] = {}
    for path in sorted(new):
        if parent_of(path) in paths:  # else the kernel will not create it
            created.setdefault(parent_of(path), []).append(path)
            paths.add(path)
    listed = [*tree, *((path, []) for below in created.values() for path in below)]
    whole = [(path, children + created.get(path, [])) for path, children in listed]
    configured = dict(_configured(view, whole))
    inherits = view.resources.cgroups.inherits
    partitions = {path: cpus for path, cpus in configured.items() if inherits and is_partition(view.get, path)}
    return effective_cpus(configured, partitions, whole, view.resources.topology.online())


def _configured(view: View, tree: Tree) -> Iterator[Tuple[str, CpuSet]]:
    """The lists that are not empty, of the cgroups that have (or will have) a cpuset: others have no file to read."""
    for path, _children in tree[1:]:
        has_cpuset = not view.resources.cgroups.inherits or view.get(Address(CONTROLLER, parent_of(path))) == "enabled"
        cpus = view.cpus(Address(CPUS, path)) if has_cpuset else NONE
        if cpus:
            yield path, cpus
