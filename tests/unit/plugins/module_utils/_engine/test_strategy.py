# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which strategy a host gets."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.strategy import Reservation, choose
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("asked", "version", "release", "strategy"),
    [
        ("auto", 2, "6.1.0-40-amd64", "partition"),
        ("auto", 2, "6.0.9", "slices"),
        ("auto", 2, "5.15.0", "slices"),
        ("auto", 2, "10.0.1-rc1", "partition"),
        ("slices", 2, "6.12.1", "slices"),
    ],
)
def test_the_strategy_is_the_best_that_the_host_has(asked: str, version: int, release: str, strategy: str) -> None:
    assert choose(asked, version, release)[0] == strategy


@pytest.mark.parametrize(
    ("release", "strategy"),
    [("6.1.0", "partition"), ("6.6.9", "partition"), ("6.7.0", "slices"), ("6.17.1", "slices"), ("7.0.0", "partition")],
)
def test_not_every_kernel_makes_partitions_of_cpus_that_were_isolated_at_boot(release: str, strategy: str) -> None:
    assert choose("auto", 2, release, at_boot=frozenset({4}))[0] == strategy
    assert choose("auto", 2, release)[0] == "partition"


@pytest.mark.parametrize(("asked", "version"), [("auto", 0), ("tasks", 2), ("partition", 1), ("slices", 1)])
def test_a_strategy_that_is_not_there_is_refused(asked: str, version: int) -> None:
    with pytest.raises(IsolationError, match="cgroup"):
        choose(asked, version, "6.1.0")


cgroups = st.sampled_from(["/machine.slice", "/qemu.slice", "/machine.slice/a.slice"])
cpus = st.frozensets(st.integers(0, 15))


@given(st.lists(st.tuples(cgroups, cpus)))
def test_reservations_add_up_in_any_order(asked: list) -> None:
    one, other = Reservation(), Reservation()
    for cgroup, some in asked:
        one.add(cgroup, some)
    for cgroup, some in reversed(asked):
        other.add(cgroup, some)
    assert one.by_cgroup == other.by_cgroup and one.cpus == other.cpus
    assert one.cpus == frozenset().union(*(some for _cgroup, some in asked))
    assert set(one.by_cgroup) == {cgroup for cgroup, _some in asked}


@given(st.lists(st.sampled_from(["isolated", "root"]), min_size=1))
def test_a_partition_is_isolated_unless_one_of_its_reservations_needs_it_to_be_root(kinds: list) -> None:
    reservation = Reservation()
    for kind in kinds:
        reservation.add_partition("/machine.slice", kind)
    reservation.add_partition("/other.slice", "isolated")
    assert reservation.partition_type("/machine.slice") == ("root" if "root" in kinds else "isolated")
    assert reservation.partition_type("/other.slice") == "isolated"


def test_a_partition_is_root_if_a_reservation_of_another_strategy_is_in_it() -> None:
    reservation = Reservation()
    reservation.add_partition("/machine.slice", "isolated")
    reservation.add_partition("/other.slice", "isolated")
    reservation.shared.add("/machine.slice/some.slice")
    assert reservation.partition_type("/machine.slice") == "root"
    assert reservation.partition_type("/other.slice") == "isolated"


def test_what_is_reserved_below_a_cgroup_is_its_own_too() -> None:
    reservation = Reservation()
    reservation.add("/machine.slice", frozenset({4}))
    reservation.add("/machine.slice/some.slice", frozenset({5}))
    reservation.add("/machine.slice-like", frozenset({6}))
    assert reservation.within("/machine.slice") == {4, 5}


def test_what_is_above_a_reserved_cgroup_is_known() -> None:
    reservation = Reservation()
    assert not reservation.is_above("/machine.slice") and reservation.cpus == frozenset()
    reservation.add("/machine.slice/a.slice", frozenset({4}))
    assert [reservation.is_above(path) for path in ("/", "/machine.slice", "/machine.slice/a.slice")] == [True] * 3
    assert not reservation.is_above("/machine.slice/a.slice/vm.scope")
    assert not reservation.is_above("/machine.slice/a") and not reservation.is_above("/system.slice")


def test_a_host_has_one_reservation_to_itself() -> None:
    first = Reservation()
    first.add("/machine.slice", frozenset({1}))
    assert Reservation().by_cgroup == {} and Reservation().host_nodes == frozenset()


@pytest.mark.parametrize(("cgroup", "strategy"), [("/vm.slice", "partition"), ("/machine.slice/vm.slice", "slices")])
def test_a_partition_is_made_below_the_root_only(cgroup: str, strategy: str) -> None:
    assert choose("auto", 2, "6.1.0", cgroup)[0] == strategy
