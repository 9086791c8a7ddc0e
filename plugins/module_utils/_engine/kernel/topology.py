# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""CPU topology from sysfs.

Source: Documentation/admin-guide/cputopology.rst, Documentation/ABI/testing/sysfs-devices-system-cpu.
"""

from __future__ import annotations

import re
from typing import Dict, List, Optional, Tuple

from ..text.cpus import NONE, CpuSet, format_list, is_number, parse_list
from ..text.topology import EFFICIENCY, PERFORMANCE, Die, Topology, die_names, types_by_performance
from .host import Host

CPU = "/sys/devices/system/cpu"
NODE = "/sys/devices/system/node"


class SysfsTopology(Topology):
    """The topology of a host; each file is read once, when it is first needed."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lists: Dict[str, CpuSet] = {}

    def _list(self, path: str) -> CpuSet:
        if path not in self._lists:
            self._lists[path] = parse_list(self._host.read(path) or "")
        return self._lists[path]

    def _of_cpu(self, cpu: int, name: str) -> Optional[str]:
        return self._host.read(f"{CPU}/cpu{cpu}/{name}")

    def possible(self) -> CpuSet:
        """Every CPU that may ever come online."""
        return self._list(f"{CPU}/possible")

    def online(self) -> CpuSet:
        """The CPUs that run tasks."""
        return self._list(f"{CPU}/online")

    def present(self) -> CpuSet:
        """The CPUs that are present, online or not."""
        return self._list(f"{CPU}/present") or self.online()

    def offline(self) -> CpuSet:
        """The possible CPUs that are not online; none if only CPUs that are not present are not."""
        return self.possible() - self.online() if self.present() - self.online() else NONE

    def isolated_at_boot(self) -> CpuSet:
        """The CPUs of isolcpus=."""
        isolated, said = self._list(f"{CPU}/isolated"), self._boot_option("isolcpus")
        # Since Linux 7.0, the kernel's list has the CPUs of isolated partitions, too.
        return isolated if said is None else isolated & said

    def nohz_full(self) -> CpuSet:
        """The CPUs that have no timer tick while they run one task, by the boot option nohz_full=."""
        text = self._host.read(f"{CPU}/nohz_full") or ""
        return parse_list(text) if text.strip()[:1].isdigit() else NONE  # "(null)" without that option

    def rcu_nocbs(self) -> CpuSet:
        """The CPUs whose RCU callbacks run elsewhere: those of rcu_nocbs=, and those of nohz_full=."""
        return (self._boot_option("rcu_nocbs") or NONE) | self.nohz_full()

    def _boot_option(self, name: str) -> Optional[CpuSet]:
        """The CPUs of a boot option; none without it, None if that cannot be known.

        Source: Documentation/admin-guide/kernel-parameters.rst; in front of its CPUs, isolcpus= may have flags.
        """
        line = self._host.read("/proc/cmdline")
        if line is None:
            return None
        said = [word.partition("=")[2] for word in line.split() if word.startswith(f"{name}=")]
        if not said:
            return NONE
        terms = [term for term in said[-1].split(",") if not term[:1].isalpha()]
        try:
            return parse_list(",".join(terms)) & self.possible() if terms else self.possible()
        except ValueError:  # such as 4-N
            return None

    def nodes(self) -> Dict[int, CpuSet]:
        """Every online NUMA node with its CPUs; a node with only memory has none."""
        numbers = sorted(parse_list(self._host.read(f"{NODE}/online") or ""))
        return {number: self._list(f"{NODE}/node{number}/cpulist") for number in numbers}

    def node(self, number: int) -> CpuSet:
        """The CPUs of a NUMA node."""
        nodes = self.nodes()
        if number not in nodes:
            raise ValueError(f"there is no NUMA node {number}; online are {format_list(nodes) or 'none'}")
        return nodes[number]

    def memory(self) -> Dict[int, int]:
        """The memory of every online NUMA node, in bytes; 0 for a node that has only CPUs."""
        found = {}
        for number in self.nodes():
            total = re.search(r"MemTotal:\s*([0-9]+) kB", self._host.read(f"{NODE}/node{number}/meminfo") or "")
            found[number] = int(total.group(1)) << 10 if total else 0
        return found

    def distances(self) -> Dict[int, Dict[str, int]]:
        """How far every online NUMA node is from each, as the firmware says: 10 is its own, 20 takes twice as long."""
        nodes = list(self.nodes())
        found = {}
        for number in nodes:
            row = (self._host.read(f"{NODE}/node{number}/distance") or "").split()
            found[number] = {str(other): int(text) for other, text in zip(nodes, row)}
        return found

    def _grouped(self, name: str) -> Dict[int, CpuSet]:
        groups: Dict[int, CpuSet] = {}
        for cpu in sorted(self.online()):
            text = self._of_cpu(cpu, f"topology/{name}")
            if text is not None and int(text) >= 0:
                groups[int(text)] = groups.get(int(text), NONE) | {cpu}
        return groups

    def packages(self) -> Dict[int, CpuSet]:
        """The online CPUs of each socket."""
        return self._grouped("physical_package_id")

    def dies(self) -> Dict[Die, CpuSet]:
        """The online CPUs of each die.

        Numbers may start again in every package: on Intel before Linux 6.9, say.
        """
        dies: Dict[Die, CpuSet] = {}
        by_number = self._grouped("die_id")
        for package, cpus in self.packages().items():
            for number, whole in by_number.items():
                if whole & cpus:
                    dies[package, number] = whole & cpus
        return dies

    def cores(self) -> List[CpuSet]:
        """The online CPUs with their SMT siblings."""
        siblings = {self._list(f"{CPU}/cpu{cpu}/topology/thread_siblings_list") for cpu in self.online()}
        return sorted(filter(None, siblings), key=min)

    def _l3(self, cpu: int) -> Optional[Tuple[CpuSet, int]]:
        for index in range(8):
            level = self._of_cpu(cpu, f"cache/index{index}/level")
            if level is None:
                return None
            if level == "3":
                shared = self._list(f"{CPU}/cpu{cpu}/cache/index{index}/shared_cpu_list")
                return shared, _bytes(self._of_cpu(cpu, f"cache/index{index}/size") or "0")
        return None

    def l3_domains(self) -> List[Tuple[CpuSet, int]]:
        """Every L3 domain: its CPUs, and its cache in bytes."""
        found = {domain for domain in map(self._l3, sorted(self.online())) if domain is not None}
        return sorted(found, key=lambda domain: min(domain[0]))

    def types(self) -> Optional[Dict[str, CpuSet]]:
        """The types by the perf units of hybrid Intel processors, else by the capacity or the performance of each CPU.

        Source: Documentation/ABI/testing/sysfs-devices-system-cpu (cpu_capacity), Documentation/admin-guide/acpi/
        cppc_sysfs.rst (highest_perf).
        """
        online = self.online()
        fast, *slow = (self._list(f"/sys/devices/{unit}/cpus") for unit in ("cpu_core", "cpu_atom", "cpu_lowpower"))
        if fast and any(slow):
            return {PERFORMANCE: fast & online, EFFICIENCY: NONE.union(*slow) & online}
        says = False
        for name in ("cpu_capacity", "acpi_cppc/highest_perf"):
            read = {cpu: self._of_cpu(cpu, name) or "" for cpu in online}
            performance = {cpu: int(text) for cpu, text in read.items() if is_number(text)}
            if performance.keys() == online:
                types, says = types_by_performance(performance), True
                if types:
                    return types
        return {} if says else None

    def vm(self, name: str, part: str) -> CpuSet:
        """The CPUs that the threads of a libvirt domain are pinned to."""
        from .libvirt import Domains  # imports an XML parser, which few runs need

        cpus = Domains(self._host).cpus(name, part)
        offline = cpus & (self.possible() - self.online())
        if offline and offline == cpus:
            raise ValueError(
                f"the domain {name!r} is pinned to CPUs {format_list(cpus)} there, and none of these is online;"
                f" online are {format_list(self.online())}"
            )
        return cpus - offline  # the kernel does without these, too

    def facts(self) -> Dict[str, object]:
        """For `ansible_facts`: CPU lists by name; caches and memory in bytes."""
        dies, types = self.dies(), self.types()
        return {
            "possible": format_list(self.possible()),
            "online": format_list(self.online()),
            "isolated_at_boot": format_list(self.isolated_at_boot()),
            "nohz_full": format_list(self.nohz_full()),
            "rcu_nocbs": format_list(self.rcu_nocbs()),
            "nodes": {str(number): format_list(cpus) for number, cpus in self.nodes().items()},
            "node_memory": {str(number): size for number, size in self.memory().items()},
            "node_distances": {str(number): distances for number, distances in self.distances().items()},
            "packages": _lists(self.packages()),
            "dies": {name: format_list(cpus) for name, cpus in zip(die_names(dies), dies.values())},
            "cores": [format_list(core) for core in self.cores()],
            "l3": [{"cpus": format_list(cpus), "bytes": size} for cpus, size in self.l3_domains()],
            "types": None if types is None else {name: format_list(cpus) for name, cpus in types.items()},
        }


def _lists(groups: Dict[int, CpuSet]) -> Dict[str, str]:
    return {str(number): format_list(cpus) for number, cpus in groups.items()}


def _bytes(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)
