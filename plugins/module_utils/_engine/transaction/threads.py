# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The threads of a host whose affinities are destroyed by planned changes, or that are to be kept off CPUs."""

from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from ..kernel.cpuset import CONTROLLER, CPUS, EXISTS, PARTITION, TASK_AFFINITY
from ..kernel.host import Host
from ..kernel.task import Task, TaskId, read_task
from ..model import Address, Change, Values, of_kind
from ..planning.view import View
from ..text.cgroup_path import parent_of
from ..text.cpus import NONE, CpuSet, format_list, parse_list
from .affinity import Pin, Tree, effective_cpus, targets


class Threads(NamedTuple):
    """For each pinned thread the affinity that it is to have, changed or not, and the one that it requested."""

    changes: List[Change]
    requested: Dict[Address, str]


def plan_threads(view: View, changes: List[Change], certain: Values) -> Threads:
    """The affinities that threads are to have after these changes; those in `certain` are restored as they are."""
    recorded = _affinities({**view.journal.baseline, **certain})
    pins = _pins(view, changes, set(recorded))
    now = {pin.name: pin.cpus for pin in pins}
    found = Threads([], {})
    for name, (requested, target) in sorted(
        targets(pins, recorded, _affinities(certain), view.resources.topology.possible()).items()
    ):
        address = Address(TASK_AFFINITY, name)
        found.requested[address] = format_list(requested)
        found.changes.append(Change(address, format_list(now[name]), format_list(target)))
        view.planned[address] = format_list(target)
    return found


def pinned(host: Host, thread: int, effective: Optional[CpuSet]) -> Optional[Tuple[Task, CpuSet]]:
    """A thread and its affinity, unless it has just all effective CPUs, has ended, or cannot be bound.

    One system call for most threads; only for those that differ a file is read.
    """
    cpus = host.affinity(thread)
    if cpus is None or cpus == effective:
        return None
    task = read_task(host, thread)
    return (task, cpus) if task and not task.is_bound else None


def resets_affinities(view: View, changes: List[Change]) -> bool:
    """Whether writing these settings makes the kernel reset affinities."""
    return any(view.resources.kind(change.address).resets_affinities for change in changes)


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
    pins = []
    for path, _children in tree:
        kept_off_now = parse_list(view.journal.kept_off) if path == "/" else NONE
        kept_off_then = view.kept_off if path == "/" else NONE
        for thread in resources.cgroups.threads(path):
            confined = bool(kept_off_now | kept_off_then) and thread not in moved
            effective, then = before[path], after.get(moved.get(thread, path), after[path])
            found = pinned(resources.host, thread, None if confined or thread in known else effective)
            if not found:
                continue
            task, cpus = found
            if confined and not resources.cgroups.inherits and not task.is_kernel_thread:
                confined = False  # on v1 the tasks of the host can be moved into a cpuset instead
            if confined:
                effective, then = effective - kept_off_now or effective, then - kept_off_then or then
            if confined or cpus != effective or task.name in recorded:
                pins.append(Pin(task.name, cpus, effective, then, confined))
    return pins


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
    partitions = {path: cpus for path, cpus in configured.items() if _is_partition(view, path)}
    return effective_cpus(configured, partitions, whole, view.resources.topology.online())


def _configured(view: View, tree: Tree) -> Iterator[Tuple[str, CpuSet]]:
    """The lists that are not empty, of the cgroups that have (or will have) a cpuset: others have no file to read."""
    for path, _children in tree[1:]:
        has_cpuset = not view.resources.cgroups.inherits or view.get(Address(CONTROLLER, parent_of(path))) == "enabled"
        cpus = view.cpus(Address(CPUS, path)) if has_cpuset else NONE
        if cpus:
            yield path, cpus


def _is_partition(view: View, path: str) -> bool:
    return view.resources.cgroups.inherits and view.get(Address(PARTITION, path)) in ("root", "isolated")
