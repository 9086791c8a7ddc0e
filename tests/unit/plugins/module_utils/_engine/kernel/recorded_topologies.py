# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CPU topologies of real machines, out of public dumps, as data; and the small sysfs tree that says the same.

`source` says for each machine where its facts are from, and which of them are from documentation or are assumed. Where
no dump shows the memory of a machine, it is a round number.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple

CPU = "/sys/devices/system/cpu"
NODE = "/sys/devices/system/node"
NONE: Mapping[str, Any] = MappingProxyType({})


class Machine(NamedTuple):
    """What the kernel says of one machine. CPU lists, and sizes, are texts as sysfs writes them."""

    name: str
    source: str
    online: str
    packages: Dict[int, str]
    dies: Dict[Tuple[int, int], str]  # by package and die_id; none if the kernel has no die_id, as on Arm
    cores: List[str]
    l3: List[Tuple[str, str]]
    nodes: Dict[int, str]
    memory: Dict[int, int]  # in kB
    distances: Dict[int, str]
    perf_units: Mapping[str, str] = NONE
    capacity: Mapping[str, int] = NONE
    highest_perf: Mapping[str, int] = NONE


MACHINES = (
    Machine(
        name="Ryzen 9 5950X",
        source="https://github.com/FeralInteractive/gamemode/issues/460 (lscpu -e). L3 size: AMD's specification."
        " highest_perf: core rankings of a machine with 16 such cores, its model not named, in the kernel mail"
        " 5718037.DvuYhMxLoT@natalenko.name. Memory: assumed.",
        online="0-31",
        packages={0: "0-31"},
        dies={(0, 0): "0-31"},
        cores=[f"{n},{n + 16}" for n in range(16)],
        l3=[("0-7,16-23", "32768K"), ("8-15,24-31", "32768K")],
        nodes={0: "0-31"},
        memory={0: 67108864},
        distances={0: "10"},
        highest_perf={
            f"{n},{n + 16}": perf
            for n, perf in enumerate((226, 231, 211, 236, 216, 236, 206, 221, 191, 201, 186, 196, 171, 166, 176, 181))
        },
    ),
    Machine(
        name="Ryzen 9 7950X3D",
        source="https://github.com/CachyOS/CachyOS-Settings/issues/86 (CPUs, siblings, core rankings in the mode"
        " frequency). V-Cache on 0-7,16-23 of such processors: https://rmnr.net/blog/9950x3d-vcache-pinning-cachyos/."
        " L3 sizes: AMD's specification. A die per CCD, as Linux has it since 6.9: lstopo of another Zen 4 in"
        " https://github.com/WildPixelGames/gdt-cpus/issues/7. Memory: assumed.",
        online="0-31",
        packages={0: "0-31"},
        dies={(0, 0): "0-7,16-23", (0, 1): "8-15,24-31"},
        cores=[f"{n},{n + 16}" for n in range(16)],
        l3=[("0-7,16-23", "98304K"), ("8-15,24-31", "32768K")],
        nodes={0: "0-31"},
        memory={0: 67108864},
        distances={0: "10"},
        highest_perf={
            f"{n},{n + 16}": perf
            for n, perf in enumerate((201, 196, 186, 176, 191, 181, 171, 166, 236, 236, 221, 231, 211, 226, 206, 216))
        },
    ),
    Machine(
        name="Core i9-12900K",
        source="https://github.com/sebhildebrandt/systeminformation/issues/716 (lscpu: 16 cores, 24 CPUs). Siblings as"
        " in the sysfs of a Core i7-1370P, hwloc: tests/hwloc/linux/20em64t-hybrid-1p6c2t+2ca4co1t. L3 size: Intel's"
        " specification. Perf units: Documentation/ABI of Linux. Memory: assumed.",
        online="0-23",
        packages={0: "0-23"},
        dies={(0, 0): "0-23"},
        cores=[*(f"{n}-{n + 1}" for n in range(0, 16, 2)), *map(str, range(16, 24))],
        l3=[("0-23", "30720K")],
        nodes={0: "0-23"},
        memory={0: 67108864},
        distances={0: "10"},
        perf_units={"cpu_core": "0-15", "cpu_atom": "16-23"},
    ),
    Machine(
        name="Threadripper 1920X",
        source="No dump of a 1920X found. A 1950X, with one core more in each L3 domain, as lstopo (Linux 5.19) has it:"
        " https://github.com/nviennot/core-to-core-latency/pull/17; its memory and distances in numactl -H:"
        " https://github.com/OpenMathLib/OpenBLAS/issues/1461. Three cores and 8 MiB in each L3 domain: AMD's"
        " specification, and an EPYC 7451 of the same dies, util-linux: tests/ts/lscpu/dumps/x86_64-epyc_7451.",
        online="0-23",
        packages={0: "0-23"},
        dies={(0, 0): "0-5,12-17", (0, 1): "6-11,18-23"},
        cores=[f"{n},{n + 12}" for n in range(12)],
        l3=[(f"{n}-{n + 2},{n + 12}-{n + 14}", "8192K") for n in range(0, 12, 3)],
        nodes={0: "0-5,12-17", 1: "6-11,18-23"},
        memory={0: 32887808, 1: 32994304},
        distances={0: "10 16", 1: "16 10"},
    ),
    Machine(
        name="Threadripper 3960X in NPS4",
        source="https://github.com/numactl/numactl/issues/165 (numactl -H; nodes 0 and 3 have no memory). L3 domains:"
        " AMD's specification. die_id: CPUID 8000001E of Zen 3 in hwloc: tests/hwloc/x86/AMD-19h-Zen3-2xEpyc-7763.",
        online="0-47",
        packages={0: "0-47"},
        dies={(0, 0): "0-47"},
        cores=[f"{n},{n + 24}" for n in range(24)],
        l3=[(f"{n}-{n + 2},{n + 24}-{n + 26}", "16384K") for n in range(0, 24, 3)],
        nodes={0: "0-5,24-29", 1: "6-11,30-35", 2: "12-17,36-41", 3: "18-23,42-47"},
        memory={0: 0, 1: 65850368, 2: 66019328, 3: 0},
        distances={0: "10 12 12 12", 1: "12 10 12 12", 2: "12 12 10 12", 3: "12 12 12 10"},
    ),
    Machine(
        name="two EPYC 7551",
        source="https://github.com/WyvernTKC/cpuminer-gr-avx2/issues/22 (numactl -H: memory only in nodes 1 and 5; the"
        " last rows of distances by symmetry). L3 domains: AMD's specification. die_id as Linux 5.11 to 6.8 has it:"
        " CPUID 8000001E of two EPYC 7451 in hwloc: tests/hwloc/x86/AMD-17h-Zen-2xEpyc-7451.",
        online="0-127",
        packages={0: "0-31,64-95", 1: "32-63,96-127"},
        dies={(n // 4, n): f"{8 * n}-{8 * n + 7},{8 * n + 64}-{8 * n + 71}" for n in range(8)},
        cores=[f"{n},{n + 64}" for n in range(64)],
        l3=[(f"{n}-{n + 3},{n + 64}-{n + 67}", "8192K") for n in range(0, 64, 4)],
        nodes={n: f"{8 * n}-{8 * n + 7},{8 * n + 64}-{8 * n + 71}" for n in range(8)},
        memory={0: 0, 1: 16343040, 2: 0, 3: 0, 4: 0, 5: 16445440, 6: 0, 7: 0},
        distances={
            0: "10 16 16 16 32 32 32 32",
            1: "16 10 16 16 32 32 32 32",
            2: "16 16 10 16 32 32 32 32",
            3: "16 16 16 10 32 32 32 32",
            4: "32 32 32 32 10 16 16 16",
            5: "32 32 32 32 16 10 16 16",
            6: "32 32 32 32 16 16 10 16",
            7: "32 32 32 32 16 16 16 10",
        },
    ),
    Machine(
        name="two Xeon Silver 4114",
        source="https://github.com/xmrig/xmrig/issues/1793 (20 cores, 40 CPUs, 2 nodes, L3 of 27.5 MiB together)."
        " Numbering, memory and distances of a host with as many cores, its model not named:"
        " https://github.com/autotest/tp-libvirt/pull/3159 (numactl -H). die_id as before Linux 6.9.",
        online="0-39",
        packages={0: ",".join(map(str, range(0, 40, 2))), 1: ",".join(map(str, range(1, 40, 2)))},
        dies={(0, 0): ",".join(map(str, range(0, 40, 2))), (1, 0): ",".join(map(str, range(1, 40, 2)))},
        cores=[f"{n},{n + 20}" for n in range(20)],
        l3=[(",".join(map(str, range(first, 40, 2))), "14080K") for first in (0, 1)],
        nodes={0: ",".join(map(str, range(0, 40, 2))), 1: ",".join(map(str, range(1, 40, 2)))},
        memory={0: 31933440, 1: 32236544},
        distances={0: "10 21", 1: "21 10"},
    ),
    Machine(
        name="two Xeon Gold 6542Y with SNC",
        source="https://github.com/jaypipes/ghw/issues/402 (lscpu, lscpu -e). Distances within and between packages, as"
        " numactl has them for Xeon Platinum 8480+ with SNC. die_id as before Linux 6.9. Memory: assumed.",
        online="0-95",
        packages={0: "0-23,48-71", 1: "24-47,72-95"},
        dies={(0, 0): "0-23,48-71", (1, 0): "24-47,72-95"},
        cores=[f"{n},{n + 48}" for n in range(48)],
        l3=[("0-23,48-71", "61440K"), ("24-47,72-95", "61440K")],
        nodes={0: "0-11,48-59", 1: "12-23,60-71", 2: "24-35,72-83", 3: "36-47,84-95"},
        memory={0: 134217728, 1: 134217728, 2: 134217728, 3: 134217728},
        distances={0: "10 12 21 21", 1: "12 10 21 21", 2: "21 21 10 12", 3: "21 21 12 10"},
    ),
    Machine(
        name="two Xeon Max of Aurora",
        source="https://github.com/argonne-lcf/user-guides/pull/756 (numactl -H: nodes 2 and 3 are HBM and have no CPU;"
        " nodes 0 and 1 have 512 GB). L3 size: Intel's specification. die_id as before Linux 6.9.",
        online="0-207",
        packages={0: "0-51,104-155", 1: "52-103,156-207"},
        dies={(0, 0): "0-51,104-155", (1, 0): "52-103,156-207"},
        cores=[f"{n},{n + 104}" for n in range(104)],
        l3=[("0-51,104-155", "107520K"), ("52-103,156-207", "107520K")],
        nodes={0: "0-51,104-155", 1: "52-103,156-207", 2: "", 3: ""},
        memory={0: 536870912, 1: 536870912, 2: 67108864, 3: 67108864},
        distances={0: "10 21 13 23", 1: "21 10 23 13", 2: "13 23 10 23", 3: "23 13 23 10"},
    ),
    Machine(
        name="DGX Spark (GB10)",
        source="hwloc: tests/hwloc/linux/nvidia-dgx-gb10 (its sysfs; Linux 6.17).",
        online="0-19",
        packages={36: "0-19"},
        dies={},
        cores=[str(n) for n in range(20)],
        l3=[("0-9", "8192K"), ("10-19", "16384K")],
        nodes={0: "0-19"},
        memory={0: 125508468},
        distances={0: "10"},
        capacity={"0-4": 718, "5-9": 997, "10-14": 731, "15-18": 1017, "19": 1024},
        highest_perf={"0-4": 108, "5-9": 150, "10-14": 110, "15-18": 153, "19": 154},
    ),
    Machine(
        name="Ampere Altra Q80-30",
        source="https://github.com/nviennot/core-to-core-latency/issues/49 (lscpu; one NUMA node). No L3 in sysfs, and"
        " the same capacity for all cores: documentation of Ampere and Linux. Package number and memory: assumed.",
        online="0-79",
        packages={0: "0-79"},
        dies={},
        cores=[str(n) for n in range(80)],
        l3=[],
        nodes={0: "0-79"},
        memory={0: 134217728},
        distances={0: "10"},
        capacity={"0-79": 1024},
    ),
    Machine(
        name="Ryzen AI 9 HX 370",
        source="hwloc: tests/hwloc/x86/AMD-1Ah-Zen5StrixPoint-RyzenAI9HX370 (siblings, L3, one CCD). highest_perf: no"
        " dump found; worked out at 26.3158 MHz a unit, 196 for Zen 5 from the 605.264 to 5157.895 MHz of lscpu in the"
        " Gentoo wiki, 125 for the 3.3 GHz of Zen 5c in AMD's specification. Memory: assumed.",
        online="0-23",
        packages={0: "0-23"},
        dies={(0, 0): "0-23"},
        cores=[f"{n},{n + 12}" for n in range(12)],
        l3=[("0-3,12-15", "16384K"), ("4-11,16-23", "8192K")],
        nodes={0: "0-23"},
        memory={0: 33554432},
        distances={0: "10"},
        highest_perf={"0-3,12-15": 196, "4-11,16-23": 125},
    ),
    Machine(
        name="Apple M1",
        source="https://github.com/AsahiLinux/docs/issues/21 (lscpu -e: one node, one socket, no caches; 2064 and 2988"
        " MHz). Capacity: worked out from these and from capacity-dmips-mhz 714 and 1024 in t8103.dtsi of Linux."
        " Memory: assumed.",
        online="0-7",
        packages={0: "0-7"},
        dies={},
        cores=[str(n) for n in range(8)],
        l3=[],
        nodes={0: "0-7"},
        memory={0: 16777216},
        distances={0: "10"},
        capacity={"0-3": 493, "4-7": 1024},
    ),
)


def numbers(cpus: str) -> List[int]:
    """The CPUs of a list; not by the code that is tested."""
    found: List[int] = []
    for part in filter(None, cpus.split(",")):
        first, _dash, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def files(machine: Machine) -> Dict[str, str]:
    """The machine as sysfs shows it: path -> text."""
    tree = {f"{CPU}/{name}": machine.online for name in ("possible", "present", "online")}
    tree[f"{CPU}/isolated"] = ""
    for core in machine.cores:
        _each(tree, core, {"topology/thread_siblings_list": core})
    for package, cpus in machine.packages.items():
        _each(tree, cpus, {"topology/physical_package_id": str(package)})
    for (_package, die), cpus in machine.dies.items():
        _each(tree, cpus, {"topology/die_id": str(die), "topology/die_cpus_list": cpus})
    _each(tree, machine.online, {f"cache/index{index}/level": level for index, level in enumerate("112")})
    for cpus, size in machine.l3:
        third = {"level": "3", "shared_cpu_list": cpus, "size": size}
        _each(tree, cpus, {f"cache/index3/{name}": text for name, text in third.items()})
    for cpus, capacity in machine.capacity.items():
        _each(tree, cpus, {"cpu_capacity": str(capacity)})
    for cpus, perf in machine.highest_perf.items():
        _each(tree, cpus, {"acpi_cppc/highest_perf": str(perf)})
    for unit, cpus in machine.perf_units.items():
        tree[f"/sys/devices/{unit}/cpus"] = cpus
    tree[f"{NODE}/online"] = ",".join(map(str, machine.nodes))
    for node, cpus in machine.nodes.items():
        tree[f"{NODE}/node{node}/cpulist"] = cpus
        tree[f"{NODE}/node{node}/meminfo"] = f"Node {node} MemTotal:       {machine.memory[node]:8} kB"
        tree[f"{NODE}/node{node}/distance"] = machine.distances[node]
    return {path: f"{text}\n" for path, text in tree.items()}


def _each(tree: Dict[str, str], cpus: str, texts: Mapping[str, str]) -> None:
    for cpu in numbers(cpus):
        tree.update({f"{CPU}/cpu{cpu}/{name}": text for name, text in texts.items()})
