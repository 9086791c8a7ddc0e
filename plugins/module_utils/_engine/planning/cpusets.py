# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What several steps plan for a cpuset: its lists, and that it exists and can take tasks."""

from __future__ import annotations

from typing import Callable, Optional, Tuple

from ..errors import IsolationError
from ..kernel.cgroup import FLAGS
from ..kernel.cpuset import (
    ALLOWED_CPUS,
    ALLOWED_MEMORY_NODES,
    CONTROLLER,
    CPU_SET_PARTITION,
    CPUS,
    EXISTS,
    MEMS,
    PARTITION,
    flag_kind,
)
from ..kernel.systemd import OVERRIDDEN, PARTITION_PROPERTY, place_of_slice
from ..model import Address
from ..text.cgroup_path import lineage, parent_of
from ..text.cpus import NONE, CpuSet, format_list, parse_list
from .view import View

# A cgroup's two lists: the kind, and the kind and name of systemd's property for it.
_List = Tuple[str, str, str]
_CPUS: _List = (CPUS, ALLOWED_CPUS, "AllowedCPUs")
_MEMS: _List = (MEMS, ALLOWED_MEMORY_NODES, "AllowedMemoryNodes")


def listed(view: View, cgroup: str) -> CpuSet:
    """The CPUs that a cgroup lists, or will list when systemd has applied its unit's files."""
    unit = view.resources.cgroups.owner(cgroup)
    return view.cpus(Address(CPUS, cgroup)) or (view.resources.systemd.to_come(unit, "AllowedCPUs") if unit else NONE)


def narrow(view: View, cgroup: str, cpus: CpuSet) -> None:
    """Plan the CPUs of a cgroup; none means inherited."""
    _assign(view, cgroup, _CPUS, format_list(cpus))


def place_memory(view: View, cgroup: str, nodes: CpuSet) -> None:
    """Plan the NUMA nodes of a cgroup; none means inherited."""
    _assign(view, cgroup, _MEMS, format_list(nodes))


def _assign(view: View, cgroup: str, what: _List, value: str) -> None:
    need(view, cgroup)
    kind, drop_in, prop = what
    cgroups, systemd = view.resources.cgroups, view.resources.systemd
    if not value and not cgroups.inherits:
        value = view.get(Address(kind, parent_of(cgroup)))
    view.assign(Address(kind, cgroup), value)
    unit = cgroups.owner(cgroup)
    if unit:
        view.assign(Address(drop_in, unit), value + OVERRIDDEN if systemd.overruled(unit, prop) else value)


def make_partition(view: View, cgroup: str, kind: str) -> None:
    """Plan the partition type of a cgroup: since systemd 261 it is a property of the unit."""
    view.assign(Address(PARTITION, cgroup), kind)
    cgroups, systemd = view.resources.cgroups, view.resources.systemd
    unit = cgroups.owner(cgroup)
    if unit and systemd.has_partitions():
        overruled = systemd.overruled(unit, PARTITION_PROPERTY)
        view.assign(Address(CPU_SET_PARTITION, unit), kind + OVERRIDDEN if overruled else kind)


def need(view: View, cgroup: str) -> None:
    """Plan that a cgroup, and each one above it, exists and can take tasks.

    On v2 with the controller enabled above it; on v1 with its parent's CPUs and nodes if it has none.
    """
    if cgroup == "/":
        raise IsolationError("the root cgroup has no cpuset of its own to change; name one below it")
    _check_controller(view, cgroup)
    for path in lineage(cgroup):
        parent, exists = parent_of(path), Address(EXISTS, path)
        if view.resources.cgroups.inherits:
            view.assign(Address(CONTROLLER, parent), "enabled")
        if view.planned.get(exists) == "absent":
            _forget(view, path)  # what an earlier step planned for it: the later step wins
        if view.get(exists) != "present":
            _check_slice(view, path)
        view.assign(exists, "present")
        if not view.resources.cgroups.inherits:
            _take_tasks(view, path, parent)


def _check_controller(view: View, cgroup: str) -> None:
    """Raise IsolationError if systemd would take the cpuset away at the next daemon-reload."""
    cgroups, systemd = view.resources.cgroups, view.resources.systemd
    if not cgroups.inherits or not systemd.running():
        return
    for unit in ("-.slice", *map(cgroups.owner, lineage(cgroup))):
        if unit and systemd.disables_cpusets(unit):
            raise IsolationError(
                f"{cgroup} cannot have a cpuset: {unit} has DisableControllers=cpuset; remove that from the files that"
                f" `systemctl cat -- {unit}` shows, then run systemctl daemon-reload"
            )


def _check_slice(view: View, path: str) -> None:
    """Raise IsolationError if systemd would make a slice elsewhere than it is named, and leave it there."""
    unit = view.resources.cgroups.owner(path)
    if unit and unit.endswith(".slice") and place_of_slice(unit) != path:
        made = place_of_slice(unit) or "nowhere"
        raise IsolationError(f"{path} cannot be made: systemd has {unit} at {made}; name it as systemd.slice(5) says")


def _take_tasks(view: View, path: str, parent: str) -> None:
    for kind in (CPUS, MEMS):
        if not view.get(Address(kind, path)):
            view.assign(Address(kind, path), view.get(Address(kind, parent)))
    for flag, initial in FLAGS.items():
        # Set by a claim that leaves, on a cpuset that did not exist before and now stays.
        address = Address(flag_kind(flag), path)
        if view.restored.get(address) == "":
            view.assign(address, initial)


def _forget(view: View, cgroup: str) -> None:
    """Drop what is planned for the settings of a cgroup."""
    exists = Address(EXISTS, cgroup)
    for address in list(view.planned):
        if exists in (address, view.resources.kind(address).depends_on(address.name)):
            del view.planned[address]


def is_partition(read: Callable[[Address], Optional[str]], cgroup: str) -> bool:
    """Whether a cgroup is a valid partition, by the values that `read` gives."""
    return read(Address(PARTITION, cgroup)) in ("root", "isolated")


def inherited(view: View, cgroup: str) -> CpuSet:
    """The CPUs that a cgroup without a list of its own gets from those above it; on v2, also those that are offline."""
    for parent in reversed(lineage(cgroup)[:-1]):
        cpus = view.cpus(Address(CPUS, parent))
        if cpus:
            return cpus
    online = view.resources.topology.online()
    everything = view.resources.cgroups.effective("/") or online
    if not view.resources.cgroups.inherits:
        return everything
    # What partitions have taken now says little: they may go with this run.
    children = view.resources.cgroups.children("/")
    freed = (parse_list(view.actual(Address(CPUS, path)) or "") for path in children if is_partition(view.actual, path))
    taken = (view.cpus(Address(CPUS, path)) for path in view.children("/") if is_partition(view.get, path))
    return (everything.union(*freed) | view.resources.topology.offline()) - NONE.union(*taken)
