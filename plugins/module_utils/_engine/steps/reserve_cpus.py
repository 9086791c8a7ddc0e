# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""reserve_cpus: take CPUs away from the host for virtual machines, by the best strategy that the host has."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping

from ..errors import IsolationError
from ..kernel.cgroup import parent_of
from ..planning.tasks import move_all
from ..planning.view import State
from ..strategy import choose
from ..text.cpus import NONE, CpuSet, format_list, parse_list
from ..text.nodes import parse_nodes

ARGUMENTS: Dict[str, Any] = {
    "cpus": {"type": "raw", "required": True},
    "emulator_cpus": {"type": "raw"},
    "strategy": {"type": "str", "choices": ["auto", "partition", "slices", "tasks"], "default": "auto"},
    "partition_type": {"type": "str", "choices": ["auto", "isolated", "root"], "default": "auto"},
    "cgroup": {"type": "str", "default": "/machine.slice"},
    "host_cgroup": {"type": "str", "default": "/host.slice"},
    "host_mems": {"type": "raw"},
    "memory_migrate": {"type": "bool", "default": False},
}


def plan(arguments: Mapping[str, Any], state: State) -> None:
    """Turn the strategy into cpusets and a partition; reservations of several claims add up."""
    cpus = state.evaluate(arguments["cpus"], "cpus")
    given = arguments["emulator_cpus"]
    emulator = state.evaluate(given, "emulator_cpus") if given not in (None, "", []) else NONE
    cgroup = "/" + arguments["cgroup"].strip("/")
    if not state.resources.kinds["cgroup.exists"].valid_name(cgroup):
        raise IsolationError(f"cgroup: {arguments['cgroup']!r} is not the path of a cgroup")
    strategy, reason = choose(arguments["strategy"], state.resources.cgroups.version, os.uname().release, cgroup)
    state.notes.update(strategy=strategy, strategy_reason=reason)
    for option in ("memory_migrate", "host_mems"):
        if arguments[option] and strategy != "tasks":
            raise IsolationError(f"{option}: strategy {strategy} has none; this is for strategy tasks, on cgroup v1")

    state.reserved[cgroup] = state.reserved.get(cgroup, NONE) | cpus | emulator
    everything: CpuSet = frozenset().union(*state.reserved.values())
    # A CPU of the host that is offline now belongs to it when it comes back.
    host = state.resources.topology.present() - everything
    if not host & state.resources.topology.online():
        raise IsolationError(f"cpus: {format_list(everything)} are all CPUs of this host; leave it at least one")
    state.notes.update(vm_cpus=format_list(everything), host_cpus=format_list(host))
    if strategy == "tasks":
        _tasks(state, arguments, cgroup, everything, host)
    elif strategy == "partition":
        _partition(state, cgroup, _type(arguments["partition_type"], emulator), host)
    else:
        _slices(state, everything, host)


def _type(asked: str, emulator: CpuSet) -> str:
    """In an isolated partition the kernel does not spread threads, so several emulator CPUs need `root`."""
    return asked if asked != "auto" else ("root" if len(emulator) > 1 else "isolated")


def _partition(state: State, cgroup: str, kind: str, host: CpuSet) -> None:
    for other, theirs in state.reserved.items():
        both = theirs & state.reserved[cgroup]
        if other != cgroup and both:
            raise IsolationError(f"cpus: CPU {format_list(both)} is in the partition {other} already")
    types = {kind, state.partition_types.setdefault(cgroup, kind)}
    state.partition_types[cgroup] = "root" if "root" in types else "isolated"
    state.narrow(cgroup, state.reserved[cgroup])
    state.assign(f"cgroup.partition:{cgroup}", state.partition_types[cgroup])
    parent = parent_of(cgroup)
    for sibling in state.children(parent):
        # A sibling that lists one of the CPUs itself would make the partition invalid.
        address = f"cgroup.cpus:{sibling}"
        listed = state.cpus(address)
        lists_them = (listed | parse_list(state.journal.baseline.get(address, ""))) & state.reserved[cgroup]
        if sibling != cgroup and sibling not in state.reserved and lists_them:
            state.narrow(sibling, (listed - state.reserved[cgroup]) or host)


def _slices(state: State, everything: CpuSet, host: CpuSet) -> None:
    for cgroup in state.reserved:
        _nobody_else_above(state, cgroup)
    for child in state.children("/"):
        # What is above the VMs must have their CPUs, too.
        if not any(f"{cgroup}/".startswith(f"{child}/") for cgroup in state.reserved):
            listed = state.cpus(f"cgroup.cpus:{child}")
            state.narrow(child, ((listed - everything) & host if listed else host) or host)
    state.keep_off(everything)


def _nobody_else_above(state: State, cgroup: str) -> None:
    """Raise IsolationError where services run in a cgroup above the VMs': it keeps their CPUs, and so would these."""
    cgroups = state.resources.cgroups
    above = parent_of(cgroup)
    while above != "/":
        services = (child for child in cgroups.children(above) if child.endswith(".service"))
        running = next((service for service in services if cgroups.populated(service)), None)
        if running:
            raise IsolationError(
                f"cgroup: {cgroup} is below {above}, where {running} runs, too, which could not be kept off the CPUs;"
                " name a cgroup below the root, or one below machine.slice"
            )
        above = parent_of(above)


def _tasks(state: State, arguments: Mapping[str, Any], cgroup: str, everything: CpuSet, host: CpuSet) -> None:
    """A cpuset for the host's tasks. Kernel threads stay in the root, where they are bound to the host's CPUs."""
    path = "/" + arguments["host_cgroup"].strip("/")
    if path == "/" or not state.resources.kinds["cgroup.exists"].valid_name(path):
        raise IsolationError(f"host_cgroup: {arguments['host_cgroup']!r} is not the path of a cgroup below the root")
    for vms in state.reserved:
        if f"{path}/".startswith(f"{vms}/") or f"{vms}/".startswith(f"{path}/"):
            raise IsolationError(f"host_cgroup: {path} and the virtual machines' {vms} must not be in one another")
    host &= state.resources.topology.online()  # v1 takes no others
    state.narrow(path, host)
    state.place_memory(path, _nodes(arguments["host_mems"], host, state))
    if arguments["memory_migrate"]:
        state.assign(f"cgroup.memory_migrate:{path}", "1")
    for top in state.children("/"):
        if (cgroup + "/").startswith(f"{top}/") or any((other + "/").startswith(f"{top}/") for other in state.reserved):
            continue
        for other in state.tree(top):
            listed = state.cpus(f"cgroup.cpus:{other}")
            if other != path and listed & everything and not _is_said(state, other):
                room = state.cpus(f"cgroup.cpus:{parent_of(other)}") & host
                state.narrow(other, (listed - everything) & room or room or host)
    move_all(state, "/", path, kernel_threads=False)
    state.keep_off(everything)


def _is_said(state: State, cgroup: str) -> bool:
    """Whether a cpuset step makes a cgroup, itself or what is below it: then that says what it has."""
    exists = f"cgroup.exists:{cgroup}"
    if state.journal.baseline.get(exists, state.actual(exists)) != "absent":
        return False
    steps = (step.arguments for claim in state.claims.values() for step in claim.steps if step.name == "cpuset")
    return any(f"/{given['path'].strip('/')}/".startswith(f"{cgroup}/") for given in steps)


def _nodes(given: Any, host: CpuSet, state: State) -> CpuSet:
    """The NUMA nodes of the host's memory: as given, or those of its CPUs."""
    there = state.resources.memory.nodes()
    if given not in (None, "", []):
        state.host_nodes |= parse_nodes(given, there, "host_mems")
    if state.host_nodes:  # also where it is another claim that has named them
        return state.host_nodes
    own = frozenset(node for node, cpus in state.resources.topology.nodes().items() if cpus & host)
    return (own & there) or there


def destinations(arguments: Mapping[str, Any]) -> List[str]:
    """Where strategy tasks moved tasks to."""
    return ["/" + arguments["host_cgroup"].strip("/")]
