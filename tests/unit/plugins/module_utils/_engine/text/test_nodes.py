# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NUMA nodes as options name them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import format_list
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.nodes import parse_nodes, parse_nodes_or_all
from hypothesis import given
from hypothesis import strategies as st

SOME = frozenset({0, 1, 2, 12})
nodes = st.frozensets(st.integers(0, 200))


@given(nodes, st.booleans(), st.booleans())
def test_a_list_of_nodes_is_read_with_or_without_the_letter_as_text_or_as_a_list(
    wanted: frozenset, letter: bool, listed: bool
) -> None:
    text = format_list(wanted)
    text = re.sub(r"(^|,)(?=[0-9])", r"\1N", text) if letter else text
    assert parse_nodes(text.split(",") if listed else text, frozenset(range(201)), "mems") == wanted


@pytest.mark.parametrize(
    ("given_nodes", "found"),
    [
        ("N12", {12}),
        ("N1,N2", {1, 2}),
        ("N0-2", {0, 1, 2}),
        ("N0-N2", {0, 1, 2}),
        (" N0 , 12 ", {0, 12}),
        (["N0", " 1", 2], {0, 1, 2}),
        ([], set()),
        ("", set()),
        (0, {0}),
        ("N0-2:1/2", {0, 2}),
    ],
)
def test_nodes_are_named(given_nodes: Any, found: set) -> None:
    assert parse_nodes(given_nodes, SOME, "nodes") == found


@pytest.mark.parametrize("text", "N1N2 1N2 NN1 N n1 N-1 N1;N2 ² N٣ C1 node:1 x".split())
@pytest.mark.parametrize("listed", [True, False])
def test_what_cannot_be_read_is_refused_by_the_option_s_name(text: str, listed: bool) -> None:
    wanted = [text] if listed else text
    with pytest.raises(IsolationError, match=re.escape(f"host_mems: {wanted!r}: expected a number")):
        parse_nodes(wanted, SOME, "host_mems")


@given(nodes, nodes)
def test_a_node_that_is_not_there_is_named_with_those_that_are(wanted: frozenset, available: frozenset) -> None:
    if wanted <= available:
        assert parse_nodes(format_list(wanted), available, "mems") == wanted
        return
    with pytest.raises(IsolationError) as error:
        parse_nodes(format_list(wanted), available, "mems")
    missing, there = format_list(wanted - available), format_list(available)
    assert str(error.value) == f"mems: there is no NUMA node {missing}; nodes with memory are {there}"


def test_all_nodes_are_meant_if_none_is_given_and_one_is_needed() -> None:
    assert parse_nodes_or_all(None, SOME) == SOME
    assert parse_nodes_or_all(["N0", "12"], SOME) == {0, 12}
    for given_nodes in ([], [""]):
        with pytest.raises(IsolationError, match=r"^nodes: no NUMA node is named; nodes with memory are 0-2,12$"):
            parse_nodes_or_all(given_nodes, SOME)
