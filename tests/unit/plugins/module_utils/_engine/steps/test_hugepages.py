# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hugepages: what it plans, what claims add up to, and what the kernel cannot give."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    engine,
    kill_at,
    step,
    whole_job,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.hugepages import (
    HugepagePools,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Killed
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.single_step import (
    planned,
    refused,
)
from hypothesis import given
from hypothesis import strategies as st

POOL = "node0/2048kB"


def pages(kernel: FakeKernel) -> int:
    """What the pool of node 0 holds."""
    return kernel.part(HugepagePools).pages[POOL]


def reserve(count: int) -> list:
    """A claim's steps, behind the actions as they should be."""
    return [step("drop_caches", sync=False), step("compact_memory"), step("hugepages", pages=count, nodes=["0"])]


def test_each_node_gets_as_many_of_the_default_size() -> None:
    assert planned("hugepages", pages=3) == {"memory.hugepages:node0/2048kB": "3", "memory.hugepages:node1/2048kB": "3"}


@pytest.mark.parametrize("size", ["1G", "1024M", "1048576kB"])
def test_size_and_nodes_are_chosen(size: str) -> None:
    assert planned("hugepages", pages=2, size=size, nodes=["N1"]) == {"memory.hugepages:node1/1048576kB": "2"}


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"pages": 0}, "pages: 0 is not a number of pages"),
        ({"pages": 1, "size": "3M"}, "'3M' is not a size of huge pages on NUMA node 0; there are 2048kB, 1048576kB"),
        ({"pages": 1, "size": "big"}, "'big' is not a size"),
        ({"pages": 1, "nodes": ["7"]}, "there is no NUMA node 7"),
        ({"pages": 1, "nodes": []}, "no NUMA node is named"),
    ],
)
def test_what_cannot_be_is_refused(given_: dict, words: str) -> None:
    assert words in refused("hugepages", **given_)


def test_the_pages_are_written_after_the_actions() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", reserve(5))
        order = [line for line in kernel.log if "compact" in line or "nr_hugepages" in line]
        assert "compact" in order[0] and "nr_hugepages = 5" in order[-1]


def test_fewer_than_asked_is_an_error_that_says_how_many_and_everything_is_back() -> None:
    with booted() as kernel:
        kernel.part(HugepagePools).available[POOL] = 312
        before = kernel.snapshot()
        with pytest.raises(IsolationError) as error:
            engine(kernel).apply("vm", [*whole_job("4-7", "partition"), *reserve(512)])
        assert "step 8 (hugepages)" in str(error.value)
        assert "the kernel could allocate only 312 of 512 huge pages" in str(error.value)
        assert "Everything is back as it was" in str(error.value)
        assert kernel.snapshot() == before


@given(st.integers(0, 50), st.lists(st.integers(1, 100), min_size=1, max_size=4), st.data())
def test_reservations_of_claims_add_up_over_what_there_was(first: int, counts: list, data: st.DataObject) -> None:
    with booted() as kernel:
        kernel.part(HugepagePools).pages[POOL] = first
        before = kernel.snapshot()
        for number, count in enumerate(counts):
            engine(kernel).apply(f"vm{number}", reserve(count))
            assert pages(kernel) == first + sum(counts[: number + 1])
            assert not engine(kernel).apply(f"vm{number}", reserve(count)).changed
        left = dict(enumerate(counts))
        for number in data.draw(st.permutations(list(left))):
            engine(kernel).revert([f"vm{number}"])
            del left[number]
            assert pages(kernel) == first + sum(left.values())
        assert kernel.snapshot() == before


def test_a_claim_that_changes_reserves_what_a_fresh_one_would() -> None:
    with booted() as kernel:
        engine(kernel).apply("other", reserve(10))
        engine(kernel).apply("vm", reserve(50))
        engine(kernel).apply("vm", reserve(20))
        assert pages(kernel) == 30


def test_fewer_pages_than_claimed_are_drift_and_more_are_not() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", reserve(50))
        kernel.part(HugepagePools).pages[POOL] = 70
        assert engine(kernel).inspect()[1].changes == []
        kernel.part(HugepagePools).pages[POOL] = 40
        assert engine(kernel).inspect()[1].changes == [(f"memory.hugepages:{POOL}", "40", "50")]
        assert engine(kernel).apply("vm", reserve(50)).changed and pages(kernel) == 50


def test_check_mode_announces_and_writes_nothing() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        outcome = engine(kernel).apply("vm", reserve(50), check=True)
        assert outcome.changes == [(f"memory.hugepages:{POOL}", "0", "50")]
        assert kernel.snapshot() == before and kernel.log == []


def test_killed_at_any_write_a_revert_gives_the_number_back() -> None:
    for count in range(1, 20):
        with booted() as kernel:
            kernel.part(HugepagePools).pages[POOL] = 7
            before = kernel.snapshot()
            kernel.watch = kill_at(count)
            try:
                engine(kernel).apply("vm", reserve(50))
            except Killed:
                kernel.watch = None
                engine(kernel).revert()
                assert kernel.snapshot() == before, count
                continue
            assert count > 3
            return


def test_pages_in_use_at_a_revert_are_named_and_left_to_the_kernel() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", reserve(50))
        kernel.part(HugepagePools).in_use[POOL] = 20
        outcome = engine(kernel).revert()
        assert outcome.skipped == {
            f"memory.hugepages:{POOL}": "20 pages are still in use: the kernel frees each when it is no longer in use"
        }
        assert engine(kernel).inspect()[0].claims == {}


def test_pages_in_use_are_owed_by_a_claim_that_lasts_and_nothing_else_is() -> None:
    """When they are freed, nothing of systemd changes."""
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("lasts", whole_job("4-5", "slices"))
        holds = engine(kernel).inspect()[0].claims["lasts"].holds
        engine(kernel).apply(
            "vm", [step("hugepages", pages=50, nodes=["0"]), step("cpuset", path="/x.slice", cpus="6")]
        )
        kernel.part(HugepagePools).in_use[POOL] = 20
        engine(kernel).revert(["vm"])
        assert engine(kernel).inspect()[0].claims["lasts"].holds == tuple(sorted({*holds, f"memory.hugepages:{POOL}"}))
        kernel.part(HugepagePools).in_use[POOL] = 0
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_prior_of_a_single_step_leads_back() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        outcome = engine(kernel).once(step("hugepages", pages=9))
        assert pages(kernel) == 9
        engine(kernel).restore_prior(outcome.prior)
        assert kernel.snapshot() == before
