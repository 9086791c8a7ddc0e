# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The NUMA nodes that are compacted."""

from __future__ import annotations

from typing import List

import pytest
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import NODE
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.single_step import refused


def test_compact_memory_names_the_nodes_there_are() -> None:
    assert "there is no NUMA node 7; nodes with memory are 0-1" in refused("compact_memory", nodes=["7"])


@pytest.mark.parametrize("given", ["N0N1", "N", "NN0", "²", "٣", "all"])
def test_a_node_list_that_cannot_be_read_is_refused(given: str) -> None:
    assert f"nodes: [{given!r}]: expected a number" in refused("compact_memory", nodes=[given])
    assert "no NUMA node is named" in refused("compact_memory", nodes=[])


@pytest.mark.parametrize(("given", "nodes"), [(["N1"], [1]), (["N0-1"], [0, 1]), (["1", "N0"], [0, 1]), (None, [0, 1])])
def test_the_nodes_that_are_named_are_compacted(given: List[str], nodes: List[int]) -> None:
    with booted() as kernel:
        done = engine(kernel).once(step("compact_memory", nodes=given)).actions["compact_memory"]
        assert kernel.acted == [f"{NODE}/node{node}/compact" for node in nodes]
        assert [blocks["node"] for blocks in done["free_huge_blocks"]] == nodes
