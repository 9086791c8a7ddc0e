# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CPU lists and masks, against oracles that share no code with them."""

from __future__ import annotations

import re

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import (
    LIMIT,
    format_list,
    format_mask,
    parse_list,
    parse_mask,
    parse_range,
)
from hypothesis import given
from hypothesis import strategies as st

sets = st.frozensets(st.integers(0, 300))


@given(sets)
def test_a_list_read_back_is_the_set(cpus: frozenset) -> None:
    assert parse_list(format_list(cpus)) == cpus


@given(sets)
def test_a_mask_read_back_is_the_set(cpus: frozenset) -> None:
    assert parse_mask(format_mask(cpus)) == cpus


@given(sets)
def test_a_list_is_sorted_and_no_two_ranges_of_it_touch(cpus: frozenset) -> None:
    ends = [[int(n) for n in part.split("-")] for part in format_list(cpus).split(",") if part]
    assert all(left[-1] + 1 < right[0] for left, right in zip(ends, ends[1:]))


@given(sets)
def test_a_mask_has_bit_n_for_cpu_n_in_groups_of_eight_digits(cpus: frozenset) -> None:
    first, *rest = format_mask(cpus).split(",")
    assert all(len(group) == 8 for group in rest) and 1 <= len(first) <= 8
    bits = bin(int("".join([first, *rest]), 16))[:1:-1]
    assert {n for n, bit in enumerate(bits) if bit == "1"} == set(cpus)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 9), st.data())
def test_of_every_group_the_first_are_used(low: int, length: int, group: int, data: st.DataObject) -> None:
    used = data.draw(st.integers(1, group))
    expected = set()
    for start in range(low, low + length + 1, group):
        expected.update(n for n in range(start, start + used) if n <= low + length)
    assert parse_range(f"{low}-{low + length}:{used}/{group}") == expected


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("", set()),
        ("3", {3}),
        ("0-2,5", {0, 1, 2, 5}),
        (" 1 , 3-4 \n", {1, 3, 4}),
        ("0-7:1/2", {0, 2, 4, 6}),
        ("2,1-3", {1, 2, 3}),
    ],
)
def test_lists_of_the_kernel_are_read(text: str, cpus: set) -> None:
    assert parse_list(text) == cpus


@pytest.mark.parametrize(
    ("text", "cpus"), [("ff", range(8)), ("1,00000000", [32]), ("0", []), ("00000000,000000f0\n", range(4, 8))]
)
def test_masks_of_the_kernel_are_read(text: str, cpus: list) -> None:
    assert parse_mask(text) == set(cpus)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", "expected a number"),
        ("1-", "expected a number"),
        ("-1", "expected a number"),
        ("1,,2", "expected a number"),
        ("4-2", "the range ends (2) before it begins (4)"),
        ("0-7:3/2", "of every group of 2, 3 cannot be used"),
        ("0-7:0/2", "0 cannot be used"),
        ("0-99999999999", "is more than any kernel has"),
        (str(LIMIT), "is more than"),
        ("\u0663", "expected a number"),
        ("3\n4", "expected a number"),
        ("0-7:1/0", "cannot be used"),
    ],
)
def test_what_is_no_list_is_an_error_that_says_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_list(text)
