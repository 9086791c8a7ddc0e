# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is dropped, and what that frees."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.memory import DROP
from ansible_collections.vfio.isolation.plugins.module_utils._engine.resources import Resources
from ansible_collections.vfio.isolation.plugins.module_utils._engine.steps.drop_caches import DropCaches
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.single_step import planned


class Dropping(FakeHost):
    """A host whose free memory changes when caches are dropped."""

    def __init__(self, root: str, free_after: int) -> None:
        super().__init__(root, {DROP: "0", "/proc/meminfo": "MemFree: 1000 kB\n"})
        self._free_after = free_after
        self.done: List[str] = []

    def sync(self) -> None:
        self.done.append("sync")

    def write(self, path: str, value: str, keep_open: bool = False) -> None:
        super().write(path, value, keep_open)
        self.done.append(f"{path} = {value}")
        self.put("/proc/meminfo", f"MemFree: {self._free_after} kB\n")


@pytest.mark.parametrize(("what", "bits"), [("page_cache", "1"), ("slab_objects", "2"), ("all", "3")])
def test_dirty_pages_are_written_first_for_only_clean_ones_can_be_dropped(tmp_path: Path, what: str, bits: str) -> None:
    host = Dropping(str(tmp_path), 1500)
    freed = DropCaches().act({"what": what, "sync": True}, Resources(host))
    assert freed == {"freed_bytes": 500 * 1024} and host.done == ["sync", f"{DROP} = {bits}"]


def test_without_sync_nothing_is_written_to_disk(tmp_path: Path) -> None:
    host = Dropping(str(tmp_path), 1000)
    assert DropCaches().act({"what": "all", "sync": False}, Resources(host)) == {"freed_bytes": 0}
    assert host.done == [f"{DROP} = 3"]


def test_memory_that_others_take_meanwhile_is_no_negative_number(tmp_path: Path) -> None:
    assert DropCaches().act({"what": "all", "sync": True}, Resources(Dropping(str(tmp_path), 10))) == {"freed_bytes": 0}


def test_alone_it_acts_each_time_and_claims_nothing() -> None:
    assert planned("drop_caches") == {}
    with booted() as kernel:
        for _again in range(2):
            outcome = engine(kernel).once(step("drop_caches", sync=False))
            assert outcome.changed and not outcome.changes and set(outcome.actions) == {"drop_caches"}
        assert kernel.acted == [DROP, DROP]
        assert engine(kernel).inspect()[0].claims == {}
        told = engine(kernel).once(step("drop_caches", sync=False), check=True)
        assert told.changed and told.actions == {} and len(kernel.acted) == 2
