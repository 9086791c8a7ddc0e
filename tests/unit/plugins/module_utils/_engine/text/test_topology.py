# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a topology derives from its groups, whatever they are read from."""

from __future__ import annotations

import re
from typing import Callable, Dict, List, Optional, Tuple

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import NONE, CpuSet, parse_list
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.topology import (
    Die,
    Topology,
    die_names,
    types_by_performance,
)
from hypothesis import given
from hypothesis import strategies as st


class Written(Topology):
    """4 cores of 2 threads (n and n+4) in 2 dies, each with its L3, and a node of memory alone."""

    def __init__(self, isolated: str = "", sizes: Tuple[int, ...] = (32 << 20, 96 << 20)) -> None:
        self._isolated = isolated
        self._sizes = sizes

    def online(self) -> CpuSet:
        return parse_list("0-7")

    def isolated_at_boot(self) -> CpuSet:
        return parse_list(self._isolated)

    def nodes(self) -> Dict[int, CpuSet]:
        return {0: parse_list("0-7"), 2: NONE}

    def packages(self) -> Dict[int, CpuSet]:
        return {0: parse_list("0-7")}

    def dies(self) -> Dict[Die, CpuSet]:
        return {(0, 0): parse_list("0-1,4-5"), (0, 1): parse_list("2-3,6-7")}

    def cores(self) -> List[CpuSet]:
        return [frozenset({core, core + 4}) for core in range(4)]

    def l3_domains(self) -> List[Tuple[CpuSet, int]]:
        return list(zip(self.dies().values(), self._sizes))


@given(st.integers(0, 7))
def test_a_cpu_is_in_its_own_core_and_l3_domain(cpu: int) -> None:
    topology = Written()
    assert topology.core(cpu) == {cpu % 4, cpu % 4 + 4}
    assert topology.l3(cpu) == topology.die(cpu % 4 // 2) and cpu in topology.l3(cpu)


def test_groups_are_known_by_number() -> None:
    topology = Written("2-3")
    assert topology.node(2) == NONE and topology.package(0) == topology.node(0) == topology.online()
    assert topology.isolated() == {2, 3}


def test_the_largest_l3_is_one_alone() -> None:
    assert Written().largest_l3() == {2, 3, 6, 7}
    assert Written(sizes=(2, 1)).largest_l3() == {0, 1, 4, 5}


def test_dies_are_named_with_their_package_if_numbers_start_again() -> None:
    assert die_names([(0, 0), (0, 1), (1, 2)]) == ["0", "1", "2"]
    assert die_names([(0, 0), (0, 1), (1, 0)]) == ["0.0", "0.1", "1.0"]
    assert die_names([]) == []


@pytest.mark.parametrize(
    ("ranks", "fast"),
    [
        ([1024, 1024, 446, 446], "0-1"),  # ARM: cpu_capacity
        ([718, 997, 1024, 718], "1-2"),  # two clusters of fast cores
        ([196, 208, 135, 132], "0-1"),  # Zen 5 and Zen 5c
        ([231, 226, 221, 216, 211, 206, 201, 196, 191, 186, 181, 176, 171, 166], None),  # ranked cores of one type
        ([47, 43, 46, 41, 42, 44, 38, 33, 40, 37, 35], None),
        ([255, 255], None),
        ([0, 0], None),
        ([0, 100], None),  # what is not known says nothing
        ([1024, 640, 320], "0-1"),  # of three types, the slowest is far from the others
    ],
)
def test_types_are_told_from_the_ranks_of_cores_of_one_type(ranks: List[int], fast: Optional[str]) -> None:
    types = types_by_performance(dict(enumerate(ranks)))
    slow = frozenset(range(len(ranks))) - parse_list(fast or "")
    assert types == ({} if fast is None else {"performance": parse_list(fast), "efficiency": slow})


CALLS: List[Tuple[Callable[[], CpuSet], str]] = [
    (lambda: Written().node(1), "there is no NUMA node 1; there are 0,2"),
    (lambda: Written().package(1), "there is no package 1; there are 0"),
    (lambda: Written().die(2), "there is no die 2; there are 0, 1"),
    (lambda: Written().core(8), "CPU 8 is not online; online are 0-7"),
    (lambda: Written().l3(8), "no L3 cache is known for CPU 8; online are 0-7"),
    (lambda: Written(sizes=()).l3(0), "no L3 cache is known for CPU 0"),
    (lambda: Written(sizes=()).largest_l3(), "no L3 cache is known on this host"),
    (lambda: Written(sizes=(1 << 20, 1 << 20)).largest_l3(), "no single L3 domain is the largest: 2 have 1024 KiB"),
    (lambda: Written().isolated(), "no CPU was isolated at boot (isolcpus=)"),
]


@pytest.mark.parametrize(("call", "words"), CALLS, ids=[words for _call, words in CALLS])
def test_what_is_not_there_is_said_with_what_is(call: Callable[[], CpuSet], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
