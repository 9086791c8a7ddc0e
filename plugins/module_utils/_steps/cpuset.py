# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""cpuset: create, change or remove one cpuset."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from .._cpus import CpuSet, format_list, parse_list
from .._errors import IsolationError
from .._kernel.cgroup import parent_of
from .._state import State

ARGUMENTS: Dict[str, Any] = {
    "path": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "cpus": {"type": "raw"},
    "mems": {"type": "raw"},
    "operation": {"type": "str", "choices": ["set", "add", "mask"], "default": "set"},
    "partition": {"type": "str", "choices": ["member", "root", "isolated"]},
}


def plan(arguments: Mapping[str, Any], state: State) -> None:
    """The cgroup with its lists and partition type, or that it is gone."""
    path = "/" + arguments["path"].strip("/")
    if not state.resources.kinds["cgroup.exists"].valid_name(path) or path == "/":
        raise IsolationError(f"path: {arguments['path']!r} is not the path of a cgroup below the root")
    if state.resources.cgroups.version() != 2:
        raise IsolationError(f"path: {path}: the host's cpuset controller is not on cgroup v2, which this needs so far")
    if arguments["state"] == "absent":
        _remove(path, arguments, state)
        return
    _creatable(path, state)
    state.need(path)
    operation = arguments["operation"]
    if arguments["cpus"] is not None:
        given = _given(arguments["cpus"], state)
        state.narrow(
            path, _combined(operation, state.cpus(f"cgroup.cpus:{path}") or state.inherited(path), given, "cpus")
        )
    if arguments["mems"] is not None:
        there = state.resources.memory.nodes()
        nodes = _nodes(arguments["mems"], there)
        state.place_memory(path, _combined(operation, state.cpus(f"cgroup.mems:{path}") or there, nodes, "mems"))
    if arguments["partition"] is not None:
        state.assign(f"cgroup.partition:{path}", arguments["partition"])


def _creatable(path: str, state: State) -> None:
    cgroups = state.resources.cgroups
    top = "/" + path.split("/")[1]
    if not cgroups.systemd.running() or (cgroups.owner(top) and cgroups.exists(path)):
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


def _nodes(value: Any, there: CpuSet) -> CpuSet:
    items = value if isinstance(value, list) else [value]
    try:
        nodes = parse_list(",".join(str(item) for item in items).replace("N", ""))
    except ValueError as error:
        raise IsolationError(f"mems: {value!r}: {error}") from None
    if nodes - there:
        missing = format_list(nodes - there)
        raise IsolationError(f"mems: there is no NUMA node {missing}; there are {format_list(there)}")
    return nodes


def _combined(operation: str, now: CpuSet, given: CpuSet, option: str) -> CpuSet:
    if operation == "set":
        return given
    left = now | given if operation == "add" else now - given
    if not left:
        raise IsolationError(f"{option}: without {format_list(given)} the cpuset would be empty")
    return left


def _remove(path: str, arguments: Mapping[str, Any], state: State) -> None:
    for option in ("cpus", "mems", "partition"):
        if arguments[option] is not None:
            raise IsolationError(f"{option}: a cpuset that is to be absent cannot have {option}")
    cgroups = state.resources.cgroups
    if not cgroups.exists(path):
        return
    parent = parent_of(path)
    for below, _children in cgroups.walk(path):
        if cgroups.owner(below) and (cgroups.processes(below) or not below.endswith(".slice")):
            raise IsolationError(f"path: {below} is a running systemd unit; stop it first (systemctl stop)")
        for pid in cgroups.processes(below):
            state.move(pid, parent)
        if not cgroups.owner(below):  # what a unit is configured to have, systemd gives it when it starts
            for setting, nothing in (("cpus", ""), ("mems", ""), ("partition", "member")):
                state.assign(f"cgroup.{setting}:{below}", nothing)
        state.assign(f"cgroup.exists:{below}", "absent")
