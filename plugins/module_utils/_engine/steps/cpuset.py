# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""cpuset: create, change or remove one cpuset."""

from __future__ import annotations

from typing import Any, ClassVar, Mapping

from ..errors import IsolationError
from ..kernel.cgroup import FLAGS
from ..kernel.cpuset import CPUS, EXISTS, MEMS, PARTITION, flag_kind
from ..model import Address
from ..planning.cpusets import inherited, make_partition, narrow, need, place_memory
from ..planning.step_type import ArgumentSpec, StepType
from ..planning.tasks import move_all
from ..planning.view import View
from ..text import cgroup_path
from ..text.cgroup_path import lineage, parent_of
from ..text.cpus import CpuSet, format_list, parse_list
from ..text.nodes import parse_nodes

KINDS = {"cpus": CPUS, "mems": MEMS}


class Cpuset(StepType):
    """One cgroup."""

    ARGUMENTS: ClassVar[ArgumentSpec] = {
        "path": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "cpus": {"type": "raw"},
        "mems": {"type": "raw"},
        "operation": {"type": "str", "choices": ["set", "add", "mask"], "default": "set"},
        "partition": {"type": "str", "choices": ["member", "root", "isolated"]},
        **{flag: {"type": "bool"} for flag in FLAGS},
    }

    def plan(self, arguments: Mapping[str, Any], view: View) -> None:
        """The cgroup with its lists and partition type or flags, or its removal."""
        path = cgroup_path.from_option("path", arguments["path"])
        flags = {flag: arguments[flag] for flag in FLAGS if arguments[flag] is not None}
        _check_version(path, arguments["partition"], flags, view)
        if arguments["state"] == "absent":
            _remove(path, arguments, view)
            return
        lists = [option for option in KINDS if arguments[option] is not None]
        if path != "/":
            _check_creatable(path, view)
            need(view, path)
        elif lists or not flags:
            raise IsolationError("path: the root cgroup has all CPUs and nodes for good; name a cgroup below it")
        operation = arguments["operation"]
        if "cpus" in lists:
            given = view.evaluate_optional(arguments["cpus"], "cpus")
            now = view.cpus(Address(CPUS, path)) or inherited(view, path)
            narrow(view, path, _combined(operation, now, given, "cpus"))
        if "mems" in lists:
            available = view.resources.memory.nodes()
            nodes = parse_list(
                view.grant("mems", lambda: format_list(parse_nodes(arguments["mems"], available, "mems")))
            )
            now = view.cpus(Address(MEMS, path)) or available
            place_memory(view, path, _combined(operation, now, nodes, "mems"))
        for option in lists:
            _check_nested(path, option, view)
        if arguments["partition"] is not None:
            make_partition(view, path, arguments["partition"])
        for flag, value in flags.items():
            view.assign(Address(flag_kind(flag), path), "1" if value else "0")


def _check_version(path: str, partition: Any, flags: Mapping[str, bool], view: View) -> None:
    version = view.resources.cgroups.version
    if version == 0:
        raise IsolationError("path: this kernel has no cgroup with a cpuset controller; enable CONFIG_CPUSETS")
    if version == 1 and partition is not None:
        raise IsolationError(
            f"partition: {path} is on cgroup v1, which has no partitions; use cpu_exclusive and sched_load_balance"
        )
    if version == 2 and flags:
        raise IsolationError(
            f"{', '.join(flags)}: {path} is on cgroup v2, which has no such flag; leave it out"
            " (use partition instead of cpu_exclusive and sched_load_balance; memory always migrates)"
        )


def _check_nested(path: str, option: str, view: View) -> None:
    """On v1 a cpuset's list is part of its parent's and contains those of its children: refuse here with a reason."""
    cgroups = view.resources.cgroups
    if cgroups.inherits:
        return
    kind, parent = KINDS[option], parent_of(path)
    own, above = view.cpus(Address(kind, path)), view.cpus(Address(kind, parent))
    beyond = own - above
    if beyond:
        raise IsolationError(
            f"{option}: {path} cannot have {format_list(beyond)}, which its parent {parent} does not have"
            f" ({format_list(above) or 'none'})"
        )
    for child in cgroups.children(path) if cgroups.exists(path) else []:
        lost = view.cpus(Address(kind, child)) - own
        if lost:
            raise IsolationError(f"{option}: {path} cannot lose {format_list(lost)}, which {child} below it has")


def _check_creatable(path: str, view: View) -> None:
    cgroups = view.resources.cgroups
    top = lineage(path)[0]
    if cgroups.version == 1 or not cgroups.systemd.running() or (cgroups.owner(top) and cgroups.exists(path)):
        return
    if cgroups.owner(top) is None:
        raise IsolationError(
            f"path: {top} is not a systemd unit, and systemd would take its cpuset away at the next reload;"
            f" call it {top}.slice"
        )
    if cgroups.owner(path) and not path.endswith(".slice"):
        raise IsolationError(f"path: {path} is not running; only a .slice can be created, start the unit first")


def _combined(operation: str, now: CpuSet, given: CpuSet, option: str) -> CpuSet:
    if operation == "set":
        return given
    left = now | given if operation == "add" else now - given
    if not left:
        raise IsolationError(f"{option}: without {format_list(given)} the cpuset would be empty")
    return left


def _remove(path: str, arguments: Mapping[str, Any], view: View) -> None:
    for option in ("cpus", "mems", "partition", *FLAGS):
        if arguments[option] is not None:
            raise IsolationError(f"{option}: a cpuset that is to be absent cannot have {option}")
    if path == "/":
        raise IsolationError("path: the root cgroup cannot be removed; name a cgroup below it")
    cgroups = view.resources.cgroups
    nothing = {CPUS: "", MEMS: ""}
    nothing.update({PARTITION: "member"} if cgroups.inherits else {flag_kind(flag): "" for flag in FLAGS})
    parent = parent_of(path)
    for below in list(view.tree(path)) if view.exists(path) else []:
        unit = cgroups.owner(below)
        if unit and (cgroups.tasks(below) or not below.endswith(".slice")) and cgroups.systemd.active(unit):
            raise IsolationError(f"path: {below} is a running systemd unit; stop it first (systemctl stop)")
        move_all(view, below, parent, kernel_threads=True)
        if not unit:  # systemd applies a unit's configuration when it starts
            for kind, value in nothing.items():
                view.assign(Address(kind, below), value)
        view.assign(Address(EXISTS, below), "absent")


STEP = Cpuset()
