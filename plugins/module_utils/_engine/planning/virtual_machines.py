# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Where virtual machines run: the cgroup that holds them all, and those that no claim is for."""

from __future__ import annotations

from typing import Dict

from ..errors import IsolationError
from ..kernel.cpuset import CPUS, PARTITION, TASK_AFFINITY
from ..kernel.virtual_machines import VirtualMachine
from ..model import Address
from ..strategy import Reservation
from ..text.cgroup_path import is_within, lineage
from ..text.cpus import NONE, CpuSet, format_list, parse_list
from .view import View

# For the option cgroup: the cgroup that holds all virtual machines. One that has this name is written /auto.
AUTO = "auto"
DEFAULT = "/machine.slice"
# Below these, or in no cgroup, a virtual machine is among the host's own processes, which would get its CPUs, too.
OF_THE_HOST = ("/", "/init.scope", "/system.slice", "/user.slice")
ELSEWHERE = "start it in a slice of its own, such as with systemd-run --slice=vfio.slice"


def cgroup_of_all(view: View) -> str:
    """The cgroup directly below the root that holds all virtual machines; the one before, or libvirt's, if none runs.

    Raises IsolationError if there is no such cgroup, or if it is the host's.
    """
    found: Dict[str, VirtualMachine] = {}
    for machine in view.resources.virtual_machines.running():
        found.setdefault(lineage(machine.cgroup)[0], machine)
    for cgroup, machine in found.items():
        if cgroup in OF_THE_HOST:
            raise IsolationError(
                f"cgroup: {AUTO} finds {machine} in {machine.cgroup}, where it cannot be told from the host's own"
                f" processes; {ELSEWHERE}, or name the cgroup of the other virtual machines"
            )
    if len(found) > 1:
        where = " and ".join(f"{machine} in {machine.cgroup}" for machine in found.values())
        raise IsolationError(f"cgroup: {AUTO} finds {where}, and a claim is for one cgroup; name it")
    claim = view.journal.claims.get(view.author.claim)
    before = (granted["cgroup"] for granted in (claim.granted if claim else ()) if "cgroup" in granted)
    return next(iter(found), next(before, DEFAULT))


def warn_of_machines(view: View) -> None:
    """Warn of virtual machines that the claims do not suit."""
    reservation = view.shared(Reservation)
    if reservation.by_cgroup:
        _warn_of_others(view, reservation)
        _warn_of_floating(view)


def _warn_of_floating(view: View) -> None:
    """Warn of each virtual machine in an isolated partition with vCPUs that are not pinned to one CPU."""
    machines = view.resources.virtual_machines
    for partition, kind in view.to_come(PARTITION):
        own = view.cpus(Address(CPUS, partition))
        for machine in machines.running() if kind == "isolated" else ():
            # One that has none of these gets all of them.
            floats = any(len((machines.affinity(thread) & own) or own) > 1 for thread in machine.vcpus)
            if floats and is_within(machine.cgroup, partition):
                view.warn(
                    f"{machine} has vCPUs that are not pinned to one CPU each, and the kernel spreads no threads in the"
                    f" isolated partition {partition}; pin them, or use partition_type: root (isolate_partition_type of"
                    " the role)"
                )


def _warn_of_others(view: View, reservation: Reservation) -> None:
    """Warn of each virtual machine that would use reserved CPUs but is in no cgroup that they are reserved for.

    It is confined to the CPUs of the host, which hardly anybody wants: mostly the claim is for the wrong cgroup.
    """
    machines = view.resources.virtual_machines.running()
    inside = [m for m in machines if any(is_within(m.cgroup, cgroup) for cgroup in reservation.by_cgroup)]
    # A hook makes its claim before the virtual machine runs.
    is_empty = not inside and not any(claim.created_by for claim in view.claims.values())
    for machine in machines:
        top = lineage(machine.cgroup)[0]
        # Below a cgroup that keeps the reserved CPUs, it keeps them, too.
        if machine in inside or (top != "/" and reservation.is_above(top)):
            continue
        lost = _requested(view, machine) & reservation.cpus
        if lost or is_empty:
            uses = f"may run on CPUs {format_list(lost)}" if lost else "runs"
            advice = f"{ELSEWHERE}, and name that" if top in OF_THE_HOST else f"name {top}"
            view.warn(
                f"{machine} {uses}, but CPUs {format_list(reservation.cpus)} are reserved for"
                f" {' and '.join(sorted(reservation.by_cgroup))}, and it is in {machine.cgroup}, so it is kept off"
                f" them; {advice} with the option cgroup (isolate_cgroup of the role)"
            )


def _requested(view: View, machine: VirtualMachine) -> CpuSet:
    """The CPUs that a virtual machine's threads requested before any claim, or have now."""
    found = NONE
    for thread in machine.threads:
        known = view.journal.baseline.get(Address(TASK_AFFINITY, str(thread)))
        found |= parse_list(known) if known else view.resources.virtual_machines.affinity(thread)
    return found
