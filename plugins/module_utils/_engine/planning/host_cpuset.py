# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Strategy tasks, on cgroup v1: the host's tasks move into a cpuset of their own, off the virtual machines' CPUs."""

from __future__ import annotations

from typing import Any, Mapping

from ..errors import IsolationError, quoted
from ..kernel.cpuset import CPUS, EXISTS, flag_kind
from ..model import Address
from ..strategy import Reservation
from ..text import cgroup_path
from ..text.cgroup_path import is_within, parent_of
from ..text.cpus import CpuSet, format_list, parse_list
from ..text.expression import is_given
from ..text.nodes import parse_nodes
from .cpusets import narrow, place_memory
from .tasks import move_all
from .view import View


def move_host(view: View, arguments: Mapping[str, Any], reservation: Reservation, host: CpuSet) -> None:
    """Plan a cpuset for the host's tasks, and their move into it.

    Kernel threads stay in the root, where they are bound to the host's CPUs. `arguments` are those of reserve_cpus.
    """
    path = cgroup_path.normalized(arguments["host_cgroup"])
    if path == "/" or not cgroup_path.is_valid(path):
        raise IsolationError(
            f"host_cgroup: {quoted(arguments['host_cgroup'])} is not the path of a cgroup below the root"
        )
    for vms in reservation.by_cgroup:
        if is_within(path, vms) or is_within(vms, path):
            raise IsolationError(f"host_cgroup: {path} and the virtual machines' {vms} must not be in one another")
    host &= view.resources.topology.online()  # v1 accepts no others
    narrow(view, path, host)
    place_memory(view, path, _nodes(view, arguments["host_mems"], reservation, host))
    if arguments["memory_migrate"]:
        view.assign(Address(flag_kind("memory_migrate"), path), "1")
    for top in view.children("/"):
        for other in () if reservation.is_above(top) else view.tree(top):
            listed = view.cpus(Address(CPUS, other))
            if other != path and listed & reservation.cpus and not _is_said(view, other):
                above = view.cpus(Address(CPUS, parent_of(other))) & host
                narrow(view, other, (listed - reservation.cpus) & above or above or host)
    move_all(view, "/", path, kernel_threads=False)
    view.keep_off(reservation.cpus)


def _is_said(view: View, cgroup: str) -> bool:
    """Whether a cpuset step makes this cgroup or one below it: then that step decides its lists."""
    if view.baseline(Address(EXISTS, cgroup)) != "absent":
        return False
    steps = (step.arguments for claim in view.claims.values() for step in claim.steps if step.name == "cpuset")
    return any(is_within(cgroup_path.normalized(given["path"]), cgroup) for given in steps)


def _nodes(view: View, given: Any, reservation: Reservation, host: CpuSet) -> CpuSet:
    """The NUMA nodes of the host's memory: as given, or those of its CPUs."""
    available = view.resources.memory.nodes()
    if is_given(given):
        named = view.grant("host_mems", lambda: format_list(parse_nodes(given, available, "host_mems")))
        reservation.host_nodes |= parse_list(named)
    if reservation.host_nodes:  # also if another claim named them
        return reservation.host_nodes
    own = frozenset(node for node, cpus in view.resources.topology.nodes().items() if cpus & host)
    return (own & available) or available
