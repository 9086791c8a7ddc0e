# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pools of huge pages in sysfs."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import Skipped
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.hugepages import ALL_POOLS, NODE, Hugepages
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

POOL = f"{NODE}/node1/hugepages/hugepages-2048kB/nr_hugepages"


@pytest.fixture
def pools(tmp_path: Path) -> Hugepages:
    files = {POOL: "12\n", f"{NODE}/node1/hugepages/hugepages-1048576kB/nr_hugepages": "0\n", f"{NODE}/node0/x": ""}
    return Hugepages(FakeHost(str(tmp_path), files))


def test_a_pool_is_a_number_in_a_file(pools: Hugepages) -> None:
    assert pools.read("node1/2048kB") == "12"
    pools.write("node1/2048kB", "512")
    assert pools.read("node1/2048kB") == "512"
    assert pools.where("node1/2048kB") == POOL
    assert pools.read("node0/2048kB") is None


def test_sizes_are_those_that_a_node_has_a_pool_for(pools: Hugepages) -> None:
    assert pools.sizes(1) == [2048, 1048576]
    assert pools.sizes(0) == [] and pools.sizes(7) == []


def test_a_kernel_without_numa_has_one_pool_of_each_size(tmp_path: Path) -> None:
    pool = f"{ALL_POOLS}/hugepages-2048kB/nr_hugepages"
    whole = Hugepages(FakeHost(str(tmp_path), {pool: "12\n"}))
    assert whole.sizes(0) == [2048] and whole.where("node0/2048kB") == pool and whole.read("node0/2048kB") == "12"


def test_pages_that_are_in_use_are_left_to_the_kernel(tmp_path: Path) -> None:
    class Busy(FakeHost):
        def write(self, path: str, value: str, keep_open: bool = False) -> None:
            super().write(path, "9", keep_open)

    host = Busy(str(tmp_path), {POOL: "12\n"})
    with pytest.raises(Skipped, match="5 pages are still in use"):
        Hugepages(host).write("node1/2048kB", "4")


@pytest.mark.parametrize(
    "name", ["", "node1", "node/2048kB", "node1/2048", "node1/../x/2048kB", "node٣/2048kB", "1/2kB\n"]
)
def test_what_is_not_a_pool_is_refused(pools: Hugepages, name: str) -> None:
    assert not pools.valid_name(name)


def test_a_number_of_pages_is_decimal(pools: Hugepages) -> None:
    assert pools.valid_value("0") and pools.valid_value("4096")
    assert not any(pools.valid_value(value) for value in ("", "-1", "²", "1 2", "0x10"))
