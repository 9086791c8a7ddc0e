# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""reserve_cpus: take CPUs away from the host for virtual machines, by the best strategy that the host has."""

from __future__ import annotations

from typing import Any, ClassVar, Mapping

from ..errors import IsolationError
from ..kernel.cpuset import CPUS
from ..model import Address
from ..planning.cpusets import listed, make_partition, narrow
from ..planning.step_type import ArgumentSpec, StepType
from ..planning.view import View
from ..planning.virtual_machines import AUTO, cgroup_of_all
from ..strategy import Reservation, choose, kernel_threads_stay, refused_types, why_refused
from ..text import cgroup_path
from ..text.cgroup_path import is_within, lineage, parent_of
from ..text.cpus import CpuSet, format_list, parse_list


class ReserveCpus(StepType):
    """Turns the strategy into cpusets and a partition; reservations of several claims add up."""

    ARGUMENTS: ClassVar[ArgumentSpec] = {
        "cpus": {"type": "raw", "required": True},
        "emulator_cpus": {"type": "raw"},
        "strategy": {"type": "str", "choices": ["auto", "partition", "slices", "tasks"], "default": "auto"},
        "partition_type": {"type": "str", "choices": ["auto", "isolated", "root"], "default": "auto"},
        "cgroup": {"type": "str", "default": "/machine.slice"},
        "host_cgroup": {"type": "str", "default": "/host.slice"},
        "host_mems": {"type": "raw"},
        "memory_migrate": {"type": "bool", "default": False},
    }

    def plan(self, arguments: Mapping[str, Any], view: View) -> None:
        """Plan what all reservations so far add up to."""
        cpus = view.evaluate(arguments["cpus"], "cpus")
        emulator = view.evaluate_optional(arguments["emulator_cpus"], "emulator_cpus")
        cgroup = cgroup_path.from_option("cgroup", arguments["cgroup"])
        if arguments["cgroup"] == AUTO:
            cgroup = cgroup_path.from_option("cgroup", view.grant("cgroup", lambda: cgroup_of_all(view)))
        # Also if the strategy has no use for it: a claim that is reverted asks for it.
        cgroup_path.from_option("host_cgroup", arguments["host_cgroup"])
        reservation, topology = view.shared(Reservation), view.resources.topology
        version, release = view.resources.cgroups.version, view.resources.host.kernel_release()
        at_boot = (reservation.within(cgroup) | cpus | emulator) & topology.isolated_at_boot()
        strategy, reason = choose(arguments["strategy"], version, release, cgroup, at_boot)
        view.notes.update(strategy=strategy, strategy_reason=reason)
        for option in ("memory_migrate", "host_mems"):
            if arguments[option] and strategy != "tasks":
                raise IsolationError(
                    f"{option}: strategy {strategy} has none; this is for strategy tasks, on cgroup v1"
                )

        reservation.add(cgroup, cpus | emulator, view.author.claim)
        # A CPU of the host that is offline now still belongs to it when it comes online again.
        host = topology.present() - reservation.cpus
        if not host & topology.online():
            reserved = format_list(reservation.cpus)
            raise IsolationError(f"cpus: {reserved} are all CPUs of this host; leave it at least one")
        view.notes.update(vm_cpus=format_list(reservation.cpus), host_cpus=format_list(host & topology.online()))
        if strategy == "tasks":
            from ..planning.host_cpuset import move_host  # only hosts with cgroup v1 need it

            move_host(view, arguments, reservation, host)
            return
        if strategy == "slices":
            reservation.shared.add(cgroup)
            _slices(view, reservation, host)
        else:
            asked = arguments["partition_type"]
            if at_boot and not view.was_applied:
                _check_refused(asked, release, at_boot)
            reservation.add_partition(cgroup, _type(asked, emulator))
        for partition in reservation.partitions:
            if is_within(cgroup, partition):
                _partition(view, partition, reservation, host)


def _type(asked: str, emulator: CpuSet) -> str:
    """In an isolated partition the kernel does not spread threads, so several emulator CPUs need `root`."""
    return asked if asked != "auto" else ("root" if len(emulator) > 1 else "isolated")


def _check_refused(asked: str, release: str, at_boot: CpuSet) -> None:
    """Raise IsolationError if the kernel makes no partition of this type."""
    refused = refused_types(release)
    if asked == "root" and refused == ("root",):
        raise IsolationError(f"partition_type: {why_refused(release, at_boot)}; use auto")
    if "isolated" in refused:
        raise IsolationError(f"strategy: {why_refused(release, at_boot)}; use auto or slices")


def _partition(view: View, cgroup: str, reservation: Reservation, host: CpuSet) -> None:
    """Plan a partition with the CPUs of all reservations for what is in it, those of other strategies included."""
    own = reservation.within(cgroup)
    narrow(view, cgroup, own)
    kind = reservation.partition_type(cgroup)
    at_boot, release = own & view.resources.topology.isolated_at_boot(), view.resources.host.kernel_release()
    if kind == "root" and at_boot and "root" in refused_types(release):
        kind = "isolated"
        view.warn(f"{why_refused(release, at_boot)}: it is isolated, where threads stay on one CPU")
    elif kind == "root" and at_boot:
        cpus = format_list(at_boot)
        view.warn(f"Linux spreads no threads over CPUs {cpus}, isolated at boot (isolcpus=): pin each to one CPU")
    make_partition(view, cgroup, kind)
    if kernel_threads_stay(release, kind):
        view.keep_off(own)
    for sibling in view.children(parent_of(cgroup)):
        # A sibling that lists one of the CPUs itself would make the partition invalid.
        theirs = listed(view, sibling)
        lists_them = (theirs | parse_list(view.journal.baseline.get(Address(CPUS, sibling), ""))) & own
        if sibling not in reservation.by_cgroup and lists_them:
            narrow(view, sibling, (theirs - own) or host)


def _slices(view: View, reservation: Reservation, host: CpuSet) -> None:
    for cgroup in reservation.by_cgroup:
        _nobody_else_above(view, cgroup)
        for path in lineage(cgroup):
            cpus = view.cpus(Address(CPUS, path))
            if cpus and reservation.within(path) - cpus:
                narrow(view, path, cpus | reservation.within(path))
    for child in view.children("/"):
        # The cgroups above the VMs must have their CPUs, too.
        if not reservation.is_above(child):
            left = listed(view, child) & host
            # A list of which no CPU is online counts as none: its cgroup would get the VMs' CPUs, too.
            narrow(view, child, left if left & view.resources.topology.online() else host)
    view.keep_off(reservation.cpus)


def _nobody_else_above(view: View, cgroup: str) -> None:
    """Raise IsolationError if services run in a cgroup above the VMs': it keeps the VMs' CPUs, and so would they."""
    cgroups = view.resources.cgroups
    above = parent_of(cgroup)
    while above != "/":
        services = (child for child in cgroups.children(above) if child.endswith(".service"))
        running = next((service for service in services if cgroups.populated(service)), None)
        if running:
            raise IsolationError(
                f"cgroup: {cgroup} is below {above}, where {running} also runs and cannot be kept off the CPUs;"
                " name a cgroup below the root, or one below machine.slice"
            )
        above = parent_of(above)


STEP = ReserveCpus()
