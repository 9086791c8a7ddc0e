# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Memory, on real files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.memory import (
    COMPACT_ALL,
    DROP,
    NODE,
    Memory,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost


def test_free_memory_is_in_bytes(tmp_path: Path) -> None:
    assert Memory(FakeHost(str(tmp_path), {"/proc/meminfo": "MemTotal: 9 kB\nMemFree:    3 kB\n"})).free() == 3072


def test_dropping_and_compacting_write_one_file(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {DROP: "0", f"{NODE}/node1/compact": "", f"{NODE}/has_memory": "0-1"})
    memory = Memory(host)
    memory.drop(3)
    memory.compact(1)
    assert host.log == [f"{DROP} = 3", f"{NODE}/node1/compact = 1"]
    assert memory.nodes() == {0, 1}
    with pytest.raises(
        IsolationError, match="node0/compact is missing: this kernel was built without CONFIG_COMPACTION"
    ):
        memory.compact(0)


@pytest.mark.parametrize("others", [{}, {f"{NODE}/online": "0"}])
def test_a_kernel_without_numa_compacts_all_its_memory(tmp_path: Path, others: Dict[str, str]) -> None:
    host = FakeHost(str(tmp_path), {COMPACT_ALL: "", **others})
    assert Memory(host).nodes() == {0}
    Memory(host).compact(0)
    assert host.log == [f"{COMPACT_ALL} = 1"]
    with pytest.raises(IsolationError, match="compact_memory is missing: this kernel was built without"):
        Memory(FakeHost(str(tmp_path / "without"), {})).compact(0)


@pytest.mark.skipif(os.sysconf("SC_PAGE_SIZE") != 4096, reason="the numbers are those of 4 KiB pages")
def test_a_block_larger_than_a_huge_page_counts_as_several(tmp_path: Path) -> None:
    counts = "9 9 9 9 9 9 9 9 9 3 2"  # the tenth is 2 MiB, the next 4 MiB
    zones = (
        f"Node 0, zone      DMA {counts}\nNode 0, zone   Normal {counts}\nNode 1, zone Normal 0 0 0 0 0 0 0 0 0 1 0\n"
    )
    host = FakeHost(str(tmp_path), {"/proc/buddyinfo": zones, "/proc/meminfo": "Hugepagesize:   2048 kB\n"})
    assert Memory(host).huge_blocks() == {0: 14, 1: 1}
