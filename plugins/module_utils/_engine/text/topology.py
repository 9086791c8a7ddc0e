# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The topology of a host, as far as CPU expressions need it, whatever it is read from."""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, Optional, Tuple

from .cpus import CpuSet, format_list

Die = Tuple[int, int]  # its package, and its number there
PERFORMANCE, EFFICIENCY = "performance", "efficiency"

# CPUs of one type differ, too: the firmware ranks the cores of a chip, and some reach higher frequencies. From one type
# to the next, the performance is at least so many times higher.
_STEP_BETWEEN_TYPES = 1.2


class Topology:
    """What is known of a host's CPUs. If a method raises ValueError, the message says what the host has instead."""

    def possible(self) -> CpuSet:
        """Every CPU that may ever come online."""
        raise NotImplementedError

    def online(self) -> CpuSet:
        """The CPUs that run tasks."""
        raise NotImplementedError

    def isolated_at_boot(self) -> CpuSet:
        """The CPUs of the boot option isolcpus=; none if there is no such option."""
        raise NotImplementedError

    def nodes(self) -> Dict[int, CpuSet]:
        """Every online NUMA node with its CPUs; a node with only memory has none."""
        raise NotImplementedError

    def packages(self) -> Dict[int, CpuSet]:
        """The online CPUs of each physical package (socket)."""
        raise NotImplementedError

    def dies(self) -> Dict[Die, CpuSet]:
        """The online CPUs of each die."""
        raise NotImplementedError

    def cores(self) -> List[CpuSet]:
        """The online CPUs, each with its SMT siblings, in the order of their first CPUs."""
        raise NotImplementedError

    def l3_domains(self) -> List[Tuple[CpuSet, int]]:
        """Every L3 domain: its CPUs, and its cache in bytes."""
        raise NotImplementedError

    def isolated(self) -> CpuSet:
        """The CPUs of the boot option isolcpus=. Raises ValueError if there are none."""
        found = self.isolated_at_boot()
        if not found:
            raise ValueError("no CPU was isolated at boot (isolcpus=)")
        return found

    def node(self, number: int) -> CpuSet:
        """The CPUs of a NUMA node. Raises ValueError."""
        return _one_of(self.nodes(), "NUMA node", number)

    def package(self, number: int) -> CpuSet:
        """The CPUs of a physical package (socket). Raises ValueError."""
        return _one_of(self.packages(), "package", number)

    def die(self, number: int, package: Optional[int] = None) -> CpuSet:
        """The CPUs of a die; its package has to be named, too, if several have a die of that number.

        Raises ValueError.
        """
        dies = self.dies()
        found = [cpus for die, cpus in dies.items() if die[1] == number and package in (None, die[0])]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"die:{name}" for name, (_package, die) in zip(die_names(dies), dies) if die == number)
            raise ValueError(f"several packages have a die {number}; write one of {names}")
        name = str(number) if package is None else f"{package}.{number}"
        raise ValueError(f"there is no die {name}; there are {', '.join(die_names(dies)) or 'none'}")

    def core(self, cpu: int) -> CpuSet:
        """A CPU with its SMT siblings. Raises ValueError."""
        online = f"CPU {cpu} is not online; online are {format_list(self.online())}"
        return _that_holds(cpu, self.cores(), online)

    def l3(self, cpu: int) -> CpuSet:
        """The CPUs that share the L3 cache of a CPU. Raises ValueError."""
        unknown = f"no L3 cache is known for CPU {cpu}; online are {format_list(self.online())}"
        return _that_holds(cpu, (cpus for cpus, _bytes in self.l3_domains()), unknown)

    def largest_l3(self) -> CpuSet:
        """The CPUs of the largest L3 cache (AMD X3D: the V-Cache die). Raises ValueError."""
        domains = self.l3_domains()
        if not domains:
            raise ValueError("no L3 cache is known on this host")
        most = max(size for _cpus, size in domains)
        largest = [cpus for cpus, size in domains if size == most]
        if len(largest) > 1:
            raise ValueError(f"no single L3 domain is the largest: {len(largest)} have {most >> 10} KiB")
        return largest[0]

    def types(self) -> Optional[Dict[str, CpuSet]]:
        """The online CPUs of each type of a hybrid processor; none if all are of one, None if nothing says so."""
        raise NotImplementedError

    def core_type(self, name: str) -> CpuSet:
        """The performance or efficiency CPUs of a hybrid processor. Raises ValueError."""
        types = self.types()
        if types is None:
            raise ValueError("the kernel of this host does not say which type its CPUs are of; name them by number")
        if name not in types:
            raise ValueError("this host's CPUs are all of one type")
        return types[name]

    def vm(self, name: str, part: str) -> CpuSet:
        """The CPUs that the threads of a libvirt domain are pinned to; `part` is empty for its vCPUs, or emulator.

        Raises ValueError.
        """
        raise NotImplementedError


def die_names(dies: Iterable[Die]) -> List[str]:
    """The names of dies: `1`, or `0.1` with the package in front if numbers start again in every package."""
    numbers = [number for _package, number in dies]
    repeat = len(numbers) != len(set(numbers))
    return [f"{package}.{number}" if repeat else str(number) for package, number in dies]


def types_by_performance(performance: Mapping[int, int]) -> Dict[str, CpuSet]:
    """The types of CPUs by the highest performance of each, in any unit; none if all are of one type."""
    ranks = sorted(set(performance.values()))
    steps = [(high / low, high) for low, high in zip(ranks, ranks[1:]) if low > 0]
    step, bound = max(steps, default=(1.0, 0))
    if step < _STEP_BETWEEN_TYPES:
        return {}
    fast = frozenset(cpu for cpu, rank in performance.items() if rank >= bound)
    return {PERFORMANCE: fast, EFFICIENCY: frozenset(performance) - fast}


def _one_of(groups: Dict[int, CpuSet], word: str, number: int) -> CpuSet:
    if number not in groups:
        raise ValueError(f"there is no {word} {number}; there are {format_list(groups) or 'none'}")
    return groups[number]


def _that_holds(cpu: int, groups: Iterable[CpuSet], otherwise: str) -> CpuSet:
    for cpus in groups:
        if cpu in cpus:
            return cpus
    raise ValueError(otherwise)
