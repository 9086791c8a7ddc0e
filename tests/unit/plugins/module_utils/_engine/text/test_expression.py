# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The CPU language, every form of it, on a topology that is written down here."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import (
    NONE,
    CpuSet,
    format_list,
    parse_list,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.expression import evaluate
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.topology import Die, Topology
from hypothesis import given
from hypothesis import strategies as st


class Small(Topology):
    """16 possible CPUs, 0-11 online: 2 packages of 3 cores with 2 threads (n and n+6), 2 NUMA nodes, 2 L3 domains."""

    def possible(self) -> CpuSet:
        return parse_list("0-15")

    def online(self) -> CpuSet:
        return parse_list("0-11")

    def isolated(self) -> CpuSet:
        return parse_list("4-5")

    def _pick(self, groups: dict, number: int, word: str) -> CpuSet:
        if number not in groups:
            raise ValueError(f"there is no {word} {number}; there are {format_list(groups)}")
        return parse_list(groups[number])

    def node(self, number: int) -> CpuSet:
        return self._pick({0: "0-2,6-8", 1: "3-5,9-11"}, number, "NUMA node")

    def package(self, number: int) -> CpuSet:
        return self._pick({0: "0-5", 1: "6-11"}, number, "package")

    def dies(self) -> Dict[Die, CpuSet]:
        return {(0, 7): parse_list("1-2"), (1, 7): parse_list("3-4"), (1, 8): parse_list("5")}

    def core(self, cpu: int) -> CpuSet:
        return frozenset({cpu % 6, cpu % 6 + 6})

    def l3(self, cpu: int) -> CpuSet:
        return parse_list("0-3" if cpu < 4 else "4-11")

    def largest_l3(self) -> CpuSet:
        return parse_list("4-11")

    def core_type(self, name: str) -> CpuSet:
        return parse_list({"performance": "0-3", "efficiency": "8-11"}[name])


def cpus(expression: Any) -> str:
    return format_list(evaluate(expression, Small(), "cpus"))


def sentence(expression: Any) -> str:
    with pytest.raises(IsolationError) as error:
        evaluate(expression, Small(), "cpus")
    return str(error.value)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0-6,8", "0-6,8"),
        ("0-11:1/2", "0,2,4,6,8,10"),
        (3, "3"),
        ("7", "7"),
        ("11,0", "0,11"),
        ("C0-6", "0-6"),
        ("C0-2,5-6", "0-2,5-6"),
        ("N0", "0-2,6-8"),
        ("N0-1", "0-11"),
        ("N0,1", "0-11"),
        ("N0,C3", "0-3,6-8"),
        ("C0,1", "0-1"),
        ("N1,^core:5", "3-4,9-10"),
        ("N0,^1", "0-2,6-8,^N1"),
        ("node:1", "3-5,9-11"),
        ("node:0-1", "0-11"),
        ("package:0", "0-5"),
        ("die:8", "5"),
        ("die:0.7", "1-2"),
        ("die:1.7,^4", "3"),
        ("core:3", "3,9"),
        ("core:0-1", "0-1,6-7"),
        ("l3:0", "0-3"),
        ("l3:5", "4-11"),
        ("l3:largest", "4-11"),
        ("type:performance", "0-3"),
        ("type:efficiency", "8-11"),
        ("online", "0-11"),
        ("isolated", "4-5"),
        ("all", "0-15"),
        ("0-7,^3", "0-2,4-7"),
        ("0-7,^ 3", "0-2,4-7"),
        ("online,^node:0", "3-5,9-11"),
        ("0-7,^core:3,3", "0-7"),
        (["0-2", "5"], "0-2,5"),
        (["N0", "3"], "0-3,6-8"),
        (["0-7", "^1"], "0,2-7"),
        ([1, 2], "1-2"),
        (" 0 , 1 ", "0-1"),
        ("0,", "0"),
    ],
)
def test_each_form(expression: Any, expected: str) -> None:
    if expected.endswith("^N1"):  # behind an N term a bare number is a node, also behind ^
        expected = "0-2,6-8"
    assert cpus(expression) == expected


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0-3,banana", ["cpus: term 2, 'banana'", "expected a CPU list, C<list>, N<list>"]),
        ("0-3,4-2", ["term 2, '4-2'", "ends (2) before it begins (4)"]),
        ("socket:1", ["term 1, 'socket:1'", "expected", "package:"]),
        ("type:fast", ["term 1, 'type:fast'", "expected type:performance or type:efficiency"]),
        ("0-3,13", ["term 2, '13'", "CPU 13 is not online; online are 0-11"]),
        ("10-13", ["CPU 12-13 is not online; online are 0-11"]),
        ("node:4", ["term 1, 'node:4'", "there is no NUMA node 4; there are 0-1"]),
        ("N4", ["term 1, 'N4'", "no NUMA node 4"]),
        ("N0,4", ["term 2, '4'", "no NUMA node 4"]),
        ("^3", ["term 1, '^3'", "nothing yet to exclude it from; write online,^3"]),
        ("", ["no CPUs given", "expected"]),
        ([], ["no CPUs given"]),
        ("3,^3", ["'3,^3' leaves no CPU at all"]),
        (["0-3", "5,x"], ["term 3, 'x'"]),
        ("core:", ["term 1, 'core:'", "expected a number"]),
        ("l3:biggest", ["term 1, 'l3:biggest'", "expected a number"]),
        ("C", ["term 1, 'C'"]),
    ],
)
def test_an_error_names_the_term_its_position_and_what_was_expected(expression: Any, words: list) -> None:
    for word in words:
        assert word in sentence(expression)


online = st.frozensets(st.integers(0, 11), min_size=1)


@given(online)
def test_a_kernel_list_means_itself(chosen: frozenset) -> None:
    assert evaluate(format_list(chosen), Small(), "cpus") == chosen
    assert evaluate([format_list(chosen)], Small(), "cpus") == chosen


@given(online, online)
def test_terms_add_up_and_what_is_left_out_goes(first: frozenset, second: frozenset) -> None:
    both = format_list(first) + "," + format_list(second)
    assert evaluate(both, Small(), "cpus") == first | second
    without = format_list(first) + "," + ",".join("^" + part for part in format_list(second).split(","))
    if first - second:
        assert evaluate(without, Small(), "cpus") == first - second
    else:
        assert "leaves no CPU" in sentence(without)


@given(st.text(max_size=12))
def test_any_text_is_cpus_or_one_sentence(text: str) -> None:
    try:
        assert evaluate(text, Small(), "cpus") != NONE
    except IsolationError as error:
        assert str(error).startswith("cpus: ")
