# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The topology of a host, from sysfs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Optional

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.topology import SysfsTopology
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import format_list
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

CPU = "/sys/devices/system/cpu"
NODE = "/sys/devices/system/node"


def tree(sizes: Dict[int, str]) -> Dict[str, str]:
    """4 cores of 2 threads (n, n+4), CPU 7 offline, an L3 of these sizes for each half."""
    files = {
        f"{CPU}/possible": "0-9",
        f"{CPU}/online": "0-6",
        f"{CPU}/isolated": "\n",
        f"{NODE}/online": "0,2",
        f"{NODE}/node0/cpulist": "0-6",
        f"{NODE}/node2/cpulist": "\n",
    }
    for cpu in range(7):
        base, half = f"{CPU}/cpu{cpu}", cpu % 4 // 2
        files[f"{base}/topology/thread_siblings_list"] = f"{cpu % 4},{cpu % 4 + 4}" if cpu != 3 else "3"
        files[f"{base}/topology/physical_package_id"] = "0"
        files[f"{base}/topology/die_id"] = str(half)
        files[f"{base}/cache/index0/level"] = "1"
        if half in sizes:
            files[f"{base}/cache/index1/level"] = "3"
            files[f"{base}/cache/index1/shared_cpu_list"] = ["0-1,4-5", "2-3,6"][half]
            files[f"{base}/cache/index1/size"] = sizes[half]
    return files


def test_groups_of_cpus(tmp_path: Path) -> None:
    topology = SysfsTopology(FakeHost(str(tmp_path), tree({0: "32768K", 1: "96M"})))
    assert format_list(topology.possible()) == "0-9"
    assert format_list(topology.online()) == "0-6"
    assert format_list(topology.core(5)) == "1,5"
    assert format_list(topology.package(0)) == "0-6"
    assert format_list(topology.die(1)) == "2-3,6"
    assert format_list(topology.l3(4)) == "0-1,4-5"
    assert format_list(topology.largest_l3()) == "2-3,6"
    assert topology.node(2) == frozenset()


def test_what_is_not_there_is_an_error_that_says_what_is(tmp_path: Path) -> None:
    topology = SysfsTopology(FakeHost(str(tmp_path), tree({0: "1M", 1: "1M"})))
    for call, words in [
        (lambda: topology.node(1), "there is no NUMA node 1; online are 0,2"),
        (lambda: topology.package(1), "there is no package 1; there are 0"),
        (lambda: topology.die(2), "there is no die 2; there are 0, 1"),
        (lambda: topology.core(7), "CPU 7 is not online; online are 0-6"),
        (lambda: topology.l3(9), "no L3 cache is known for CPU 9"),
        (topology.largest_l3, "no single L3 domain is the largest: 2 have 1024 KiB"),
        (topology.isolated, "no CPU was isolated at boot"),
        (lambda: topology.core_type("performance"), "the kernel of this host does not say which type its CPUs are of"),
    ]:
        with pytest.raises(ValueError, match=re.escape(words)):
            call()


def test_a_host_without_l3_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no L3 cache is known"):
        SysfsTopology(FakeHost(str(tmp_path), tree({}))).largest_l3()


@pytest.mark.parametrize("name", ["cpu_capacity", "acpi_cppc/highest_perf"])
def test_without_perf_units_the_type_of_a_cpu_is_known_by_its_performance(tmp_path: Path, name: str) -> None:
    ranks = {cpu: 1024 if cpu < 3 else 500 for cpu in range(7)}
    files = {**tree({}), **{f"{CPU}/cpu{cpu}/{name}": f"{rank}\n" for cpu, rank in ranks.items()}}
    topology = SysfsTopology(FakeHost(str(tmp_path), files))
    assert format_list(topology.core_type("performance")) == "0-2"
    assert topology.facts()["types"] == {"performance": "0-2", "efficiency": "3-6"}


def test_cpus_of_one_type_are_told_from_a_kernel_that_does_not_say(tmp_path: Path) -> None:
    same = {f"{CPU}/cpu{cpu}/cpu_capacity": "1024\n" for cpu in range(7)}
    topology = SysfsTopology(FakeHost(str(tmp_path / "same"), {**tree({}), **same}))
    assert topology.facts()["types"] == {}
    with pytest.raises(ValueError, match="all of one type"):
        topology.core_type("efficiency")
    del same[f"{CPU}/cpu3/cpu_capacity"]
    silent = SysfsTopology(FakeHost(str(tmp_path / "silent"), {**tree({}), **same}))
    assert silent.facts()["types"] is None


def test_dies_are_those_of_their_package_where_numbers_start_again(tmp_path: Path) -> None:
    packages = {f"{CPU}/cpu{cpu}/topology/physical_package_id": str(cpu % 2) for cpu in range(7)}
    topology = SysfsTopology(FakeHost(str(tmp_path), {**tree({}), **packages}))
    assert topology.facts()["dies"] == {"0.0": "0,4", "0.1": "2,6", "1.0": "1,5", "1.1": "3"}
    assert format_list(topology.die(0, 1)) == "1,5"
    with pytest.raises(ValueError, match=r"several packages have a die 0; write one of die:0\.0, die:1\.0"):
        topology.die(0)
    with pytest.raises(ValueError, match=r"there is no die 2\.0; there are 0\.0, 0\.1, 1\.0, 1\.1"):
        topology.die(0, 2)


def test_the_facts_carry_the_memory_and_the_distances_of_nodes(tmp_path: Path) -> None:
    files = {
        f"{NODE}/node0/meminfo": "Node 0 MemTotal:       16384 kB\nNode 0 MemFree:  1 kB\n",
        f"{NODE}/node0/distance": "10 21\n",
        f"{NODE}/node2/distance": "21 10\n",
    }
    facts = SysfsTopology(FakeHost(str(tmp_path), {**tree({}), **files})).facts()
    assert facts["node_memory"] == {"0": 16 << 20, "2": 0}
    assert facts["node_distances"] == {"0": {"0": 10, "2": 21}, "2": {"0": 21, "2": 10}}


@pytest.mark.parametrize(
    ("line", "isolated"),
    [
        (None, "2,4-5"),  # a container may not show it
        ("quiet", ""),  # since Linux 7.0, the kernel's list has isolated partitions, too
        ("isolcpus=4-5 quiet", "4-5"),
        ("isolcpus=managed_irq,domain,2,5", "2,5"),
        ("isolcpus=4-N", "2,4-5"),  # a form that only the kernel reads
        ("isolcpus=1 isolcpus=4", "4"),
    ],
)
def test_cpus_of_partitions_were_not_isolated_at_boot(tmp_path: Path, line: Optional[str], isolated: str) -> None:
    more = {} if line is None else {"/proc/cmdline": f"BOOT_IMAGE=/vmlinuz root=/dev/vda {line}\n"}
    files = {**tree({}), f"{CPU}/isolated": "2,4-5\n", **more}
    assert SysfsTopology(FakeHost(str(tmp_path), files)).facts()["isolated_at_boot"] == isolated


@pytest.mark.parametrize(
    ("ticks", "line", "nohz_full", "rcu_nocbs"),
    [
        ("  (null)\n", "quiet", "", ""),
        ("4-5\n", "nohz_full=4-5", "4-5", "4-5"),
        ("4-5\n", "nohz_full=4-5 rcu_nocbs=2-6", "4-5", "2-6"),
        ("\n", "rcu_nocbs=all", "", "0-9"),
        ("\n", "rcu_nocbs=2-N", "", ""),
    ],
)
def test_the_facts_have_nohz_full_and_rcu_nocbs(
    tmp_path: Path, ticks: str, line: str, nohz_full: str, rcu_nocbs: str
) -> None:
    facts = SysfsTopology(
        FakeHost(str(tmp_path), {**tree({}), f"{CPU}/nohz_full": ticks, "/proc/cmdline": line})
    ).facts()
    assert (facts["nohz_full"], facts["rcu_nocbs"]) == (nohz_full, rcu_nocbs)


def test_hybrid_cpus_are_known_by_their_perf_units(tmp_path: Path) -> None:
    files = {**tree({}), "/sys/devices/cpu_core/cpus": "0-3", "/sys/devices/cpu_atom/cpus": "4-6"}
    topology = SysfsTopology(FakeHost(str(tmp_path), files))
    assert format_list(topology.core_type("performance")) == "0-3"
    assert format_list(topology.core_type("efficiency")) == "4-6"
