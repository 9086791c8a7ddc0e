# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The NUMA nodes that are compacted."""

from __future__ import annotations

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.single_step import refused


def test_compact_memory_names_the_nodes_there_are() -> None:
    assert "there is no NUMA node 7; nodes with memory are 0-1" in refused("compact_memory", nodes=["7"])
