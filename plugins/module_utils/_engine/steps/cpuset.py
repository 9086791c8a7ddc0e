# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""cpuset: create, change or remove one cpuset."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from ..errors import IsolationError
from ..kernel.cgroup import FLAGS, parent_of
from ..planning.tasks import move_all
from ..planning.view import State
from ..text.cpus import CpuSet, format_list
from ..text.nodes import parse_nodes

ARGUMENTS: Dict[str, Any] = {
    "path": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "cpus": {"type": "raw"},
    "mems": {"type": "raw"},
    "operation": {"type": "str", "choices": ["set", "add", "mask"], "default": "set"},
    "partition": {"type": "str", "choices": ["member", "root", "isolated"]},
    **{flag: {"type": "bool"} for flag in FLAGS},
}


def plan(arguments: Mapping[str, Any], state: State) -> None:
    """The cgroup with its lists and partition type or flags, or that it is gone."""
    path = "/" + arguments["path"].strip("/")
    if not state.resources.kinds["cgroup.exists"].valid_name(path):
        raise IsolationError(f"path: {arguments['path']!r} is not the path of a cgroup")
    flags = {flag: arguments[flag] for flag in FLAGS if arguments[flag] is not None}
    _check_version(path, arguments["partition"], flags, state)
    if arguments["state"] == "absent":
        _remove(path, arguments, state)
        return
    lists = [option for option in ("cpus", "mems") if arguments[option] is not None]
    if path != "/":
        _creatable(path, state)
        state.need(path)
    elif lists or not flags:
        raise IsolationError("path: the root cgroup has all CPUs and nodes for good; name a cgroup below it")
    operation = arguments["operation"]
    if "cpus" in lists:
        given = _given(arguments["cpus"], state)
        state.narrow(
            path, _combined(operation, state.cpus(f"cgroup.cpus:{path}") or state.inherited(path), given, "cpus")
        )
    if "mems" in lists:
        there = state.resources.memory.nodes()
        nodes = parse_nodes(arguments["mems"], there, "mems")
        state.place_memory(path, _combined(operation, state.cpus(f"cgroup.mems:{path}") or there, nodes, "mems"))
    for option in lists:
        _nests(path, option, state)
    if arguments["partition"] is not None:
        state.assign(f"cgroup.partition:{path}", arguments["partition"])
    for flag, value in flags.items():
        state.assign(f"cgroup.{flag}:{path}", "1" if value else "0")


def _check_version(path: str, partition: Any, flags: Mapping[str, bool], state: State) -> None:
    version = state.resources.cgroups.version
    if version == 0:
        raise IsolationError("path: this kernel has no cgroup with a cpuset controller; enable CONFIG_CPUSETS")
    if version == 1 and partition is not None:
        raise IsolationError(
            f"partition: {path} is on cgroup v1, which has no partitions; use cpu_exclusive and sched_load_balance"
        )
    if version == 2 and flags:
        raise IsolationError(
            f"{', '.join(flags)}: {path} is on cgroup v2, which has no such flag; leave it out"
            " (instead of cpu_exclusive and sched_load_balance there is partition; memory always migrates)"
        )


def _nests(path: str, option: str, state: State) -> None:
    """On v1 a cpuset's list is part of its parent's and holds those of its children: say it before the kernel does."""
    cgroups = state.resources.cgroups
    if cgroups.inherits:
        return
    kind = f"cgroup.{option}"
    own, parent = state.cpus(f"{kind}:{path}"), parent_of(path)
    beyond = own - state.cpus(f"{kind}:{parent}")
    if beyond:
        raise IsolationError(
            f"{option}: {path} cannot have {format_list(beyond)}, which its parent {parent} has not"
            f" ({format_list(state.cpus(f'{kind}:{parent}')) or 'none'})"
        )
    for child in cgroups.children(path) if cgroups.exists(path) else []:
        lost = state.cpus(f"{kind}:{child}") - own
        if lost:
            raise IsolationError(f"{option}: {path} cannot lose {format_list(lost)}, which {child} below it has")


def _creatable(path: str, state: State) -> None:
    cgroups = state.resources.cgroups
    top = "/" + path.split("/")[1]
    if cgroups.version == 1 or not cgroups.systemd.running() or (cgroups.owner(top) and cgroups.exists(path)):
        return
    if cgroups.owner(top) is None:
        raise IsolationError(
            f"path: {top} is no systemd unit, and systemd would take its cpuset away at the next reload;"
            f" call it {top}.slice"
        )
    if cgroups.owner(path) and not path.endswith(".slice"):
        raise IsolationError(f"path: {path} is not running; only a .slice can be created, start the unit first")


def _given(value: Any, state: State) -> CpuSet:
    return frozenset() if value in ("", []) else state.evaluate(value, "cpus")


def _combined(operation: str, now: CpuSet, given: CpuSet, option: str) -> CpuSet:
    if operation == "set":
        return given
    left = now | given if operation == "add" else now - given
    if not left:
        raise IsolationError(f"{option}: without {format_list(given)} the cpuset would be empty")
    return left


def _remove(path: str, arguments: Mapping[str, Any], state: State) -> None:
    for option in ("cpus", "mems", "partition", *FLAGS):
        if arguments[option] is not None:
            raise IsolationError(f"{option}: a cpuset that is to be absent cannot have {option}")
    if path == "/":
        raise IsolationError("path: the root cgroup cannot be removed; name a cgroup below it")
    cgroups = state.resources.cgroups
    there = list(state.tree(path)) if state.get(f"cgroup.exists:{path}") == "present" else []
    settings = {"cpus": "", "mems": "", **({"partition": "member"} if cgroups.inherits else dict.fromkeys(FLAGS, ""))}
    parent = parent_of(path)
    for below in there:
        unit = cgroups.owner(below)
        if unit and (cgroups.tasks(below) or not below.endswith(".slice")) and cgroups.systemd.active(unit):
            raise IsolationError(f"path: {below} is a running systemd unit; stop it first (systemctl stop)")
        move_all(state, below, parent, kernel_threads=True)
        if not unit:  # what a unit is configured to have, systemd gives it when it starts
            for setting, nothing in settings.items():
                state.assign(f"cgroup.{setting}:{below}", nothing)
        state.assign(f"cgroup.exists:{below}", "absent")


def destinations(arguments: Mapping[str, Any]) -> List[str]:
    """Where tasks were moved to."""
    return [parent_of("/" + arguments["path"].strip("/"))] if arguments["state"] == "absent" else []
