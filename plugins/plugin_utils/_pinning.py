# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Pinning from topology: the elements of a libvirt domain that say where its threads run.

Source: libvirt, Domain XML format, sections CPU allocation, IOThreads allocation, CPU tuning, NUMA node tuning,
CPU model and topology.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import (
    LIMIT,
    NONE,
    CpuSet,
    format_list,
    parse_list,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.expression import Expression, evaluate
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.topology import Die, Topology

SCHEDULERS = ("batch", "idle", "fifo", "rr")


class FactsTopology(Topology):
    """The topology of a host as M(vfio.isolation.isolation_facts) returns it."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        """Raises IsolationError if this is not such a topology."""
        try:
            self._possible = parse_list(facts["possible"])
            self._online = parse_list(facts["online"])
            self._isolated = parse_list(facts["isolated_at_boot"])
            self._nodes, self._packages = (
                {int(number): parse_list(cpus) for number, cpus in facts[name].items()}
                for name in ("nodes", "packages")
            )
            self._dies = {self._die(name, cpus): cpus for name, cpus in _sets(facts["dies"])}
            self._memory = {int(number): int(size) for number, size in facts["node_memory"].items()}
            self._distances = {
                int(number): {int(other): int(distance) for other, distance in row.items()}
                for number, row in facts["node_distances"].items()
            }
            types = facts["types"]
            self._types = None if types is None else dict(_sets(types))
            self._cores = sorted(map(parse_list, facts["cores"]), key=min)
            self._l3 = [(parse_list(domain["cpus"]), int(domain["bytes"])) for domain in facts["l3"]]
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            message = (
                f"topology: this is not what isolation_facts returns as topology ({type(error).__name__}: {error})"
            )
            raise IsolationError(message) from None

    def _die(self, name: str, cpus: CpuSet) -> Die:
        """By its name as `die_names` writes it: if numbers do not repeat, without the package."""
        package, _dot, number = name.rpartition(".")
        around = next((n for n, whole in self._packages.items() if cpus <= whole), 0)
        return (int(package) if package else around), int(number)

    def possible(self) -> CpuSet:
        """Every CPU that may ever come online."""
        return self._possible

    def online(self) -> CpuSet:
        """The CPUs that run tasks."""
        return self._online

    def isolated_at_boot(self) -> CpuSet:
        """The CPUs of isolcpus=."""
        return self._isolated

    def nodes(self) -> dict[int, CpuSet]:
        """Every NUMA node with its CPUs."""
        return self._nodes

    def packages(self) -> dict[int, CpuSet]:
        """The CPUs of each socket."""
        return self._packages

    def memory_nodes(self, nodes: Iterable[int]) -> frozenset[int]:
        """For each of these NUMA nodes, the nearest that has memory, which most often is the node itself."""
        having = [number for number, size in self._memory.items() if size]
        return frozenset(
            min(
                having, key=lambda other: (self._distances.get(node, {}).get(other, 0 if other == node else 255), other)
            )
            for node in nodes
            if having
        )

    def dies(self) -> dict[Die, CpuSet]:
        """The CPUs of each die."""
        return self._dies

    def cores(self) -> list[CpuSet]:
        """The CPUs with their SMT siblings."""
        return self._cores

    def l3_domains(self) -> list[tuple[CpuSet, int]]:
        """Every L3 domain with its cache in bytes."""
        return self._l3

    def types(self) -> dict[str, CpuSet] | None:
        """The CPUs of each type."""
        return self._types

    def vm(self, name: str, _part: str) -> CpuSet:
        """Not in the facts."""
        raise ValueError(f"the facts do not say where the domain {name!r} is pinned; name CPUs")


def _sets(lists: Mapping[str, str]) -> list[tuple[str, CpuSet]]:
    return [(name, parse_list(cpus)) for name, cpus in lists.items()]


@dataclass(frozen=True)
class Guest:
    """Where the threads of a domain run. `vcpus` are host CPUs in the order of the vCPUs."""

    vcpus: tuple[int, ...]
    threads_per_core: int
    emulator: CpuSet
    iothreads: int
    iothread_cpus: CpuSet
    nodes: CpuSet  # of the vCPUs; none if the host has only one
    memory_nodes: CpuSet  # those with memory that are nearest to them


def place(
    topology: FactsTopology,
    vcpus: int,
    cpus: Expression = "online",
    emulator_cpus: Expression = "",
    iothreads: int = 0,
    iothread_cpus: Expression = "",
    siblings: bool = True,
) -> Guest:
    """Choose CPUs, core by core, so that SMT siblings are neighbouring vCPUs. Raises IsolationError.

    Without `siblings` each vCPU has a core of its own.
    """
    if vcpus < 1 or not 0 <= iothreads < LIMIT:
        raise IsolationError(
            f"vcpus: {vcpus} vCPUs and {iothreads} I/O threads; expected at least 1 and 0, and less than {LIMIT}"
        )
    emulator = _optional(emulator_cpus, topology, "emulator_cpus")
    for_io = _optional(iothread_cpus, topology, "iothread_cpus") or emulator
    if for_io and not iothreads and iothread_cpus not in ("", None, []):
        raise IsolationError("iothread_cpus: there are no I/O threads; say how many with iothreads")
    asked = evaluate(cpus, topology, "cpus")
    free = asked - emulator - for_io
    cores = [sorted(core & free) for core in topology.cores() if core & free]
    chosen = [cpu for core in cores for cpu in (core if siblings else core[:1])]
    if len(chosen) < vcpus:
        what = "CPUs" if siblings else "cores"
        used = format_list(asked & (emulator | for_io))
        used_up = f", {used} of them for emulator and I/O threads" if used else ""
        raise IsolationError(
            f"vcpus: {vcpus} vCPUs need as many {what}, but {format_list(asked)} has {len(chosen)}{used_up}"
        )
    pins = chosen[:vcpus]
    whole = {len(core) for core in cores if pins[-1] in core or core[0] in pins}
    threads = whole.pop() if siblings and len(whole) == 1 else 1
    nodes = {node for node, own in topology.nodes().items() if own & frozenset(pins)}
    several = len(topology.nodes()) > 1
    return Guest(
        tuple(pins),
        threads if vcpus % threads == 0 else 1,
        emulator,
        iothreads,
        for_io if iothreads else NONE,
        frozenset(nodes) if several else NONE,
        topology.memory_nodes(nodes) if several else NONE,
    )


def _optional(expression: Expression, topology: Topology, option: str) -> CpuSet:
    return NONE if expression in ("", None, []) else evaluate(expression, topology, option)


def elements(
    guest: Guest, vcpu_scheduler: Mapping[str, Any], iothread_scheduler: Mapping[str, Any]
) -> list[ET.Element]:
    """The elements to put into a domain. Raises IsolationError for a scheduler that libvirt does not know."""
    number = len(guest.vcpus)
    vcpu = ET.Element("vcpu", placement="static")
    vcpu.text = str(number)
    found = [vcpu]
    if guest.iothreads:
        iothreads = ET.Element("iothreads")
        iothreads.text = str(guest.iothreads)
        found.append(iothreads)
    tune = ET.Element("cputune")
    for index, cpu in enumerate(guest.vcpus):
        ET.SubElement(tune, "vcpupin", vcpu=str(index), cpuset=str(cpu))
    if guest.emulator:
        ET.SubElement(tune, "emulatorpin", cpuset=format_list(guest.emulator))
    for index in range(1, guest.iothreads + 1 if guest.iothread_cpus else 1):
        ET.SubElement(tune, "iothreadpin", iothread=str(index), cpuset=format_list(guest.iothread_cpus))
    if vcpu_scheduler:
        everyone = format_list(frozenset(range(number)))
        ET.SubElement(tune, "vcpusched", {"vcpus": everyone, **_scheduler(vcpu_scheduler, "vcpu_scheduler")})
    if iothread_scheduler:
        if not guest.iothreads:
            raise IsolationError("iothread_scheduler: there are no I/O threads; say how many with iothreads")
        everyone = format_list(frozenset(range(1, guest.iothreads + 1)))
        ET.SubElement(
            tune, "iothreadsched", {"iothreads": everyone, **_scheduler(iothread_scheduler, "iothread_scheduler")}
        )
    found.append(tune)
    if guest.memory_nodes:
        memory = ET.Element("numatune")
        # Memory of another node is better than no VM. But libvirt prefers only one node.
        borrowed = guest.memory_nodes != guest.nodes and len(guest.memory_nodes) == 1
        mode = "preferred" if borrowed else "strict"
        ET.SubElement(memory, "memory", mode=mode, nodeset=format_list(guest.memory_nodes))
        found.append(memory)
    cpu_model = ET.Element("cpu", mode="host-passthrough")
    cores, threads = number // guest.threads_per_core, guest.threads_per_core
    ET.SubElement(cpu_model, "topology", sockets="1", cores=str(cores), threads=str(threads))
    return [*found, cpu_model]


def _scheduler(given: Mapping[str, Any], option: str) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise IsolationError(f"{option}: expected scheduler and priority, not {given!r}")
    unknown = set(given) - {"scheduler", "priority"}
    name = given.get("scheduler")
    if unknown or name not in SCHEDULERS:
        message = f"{option}: expected scheduler ({', '.join(SCHEDULERS)}) and priority, not {dict(given)}"
        raise IsolationError(message)
    if name not in ("fifo", "rr"):
        return {"scheduler": name}
    priority = given.get("priority")
    if not isinstance(priority, int) or isinstance(priority, bool) or not 1 <= priority <= 99:
        raise IsolationError(f"{option}: {name} needs a priority of 1 to 99, not {priority!r}")
    return {"scheduler": name, "priority": str(priority)}


def xml(found: Sequence[ET.Element]) -> str:
    """Elements as text, indented by two spaces."""
    for element in found:
        ET.indent(element)
    return "".join(ET.tostring(element, encoding="unicode").replace(" />", "/>") + "\n" for element in found)
