# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The affinities of threads, as pure functions."""

from __future__ import annotations

from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.affinity import (
    Pin,
    effective_cpus,
    fit,
    requested_affinity,
    targets,
)
from hypothesis import given
from hypothesis import strategies as st

some = st.frozensets(st.integers(0, 7), min_size=1)
ALL = frozenset(range(8))


@given(some, some)
def test_a_thread_gets_of_its_requested_affinity_what_is_effective_or_all_that_is(
    requested: frozenset, effective: frozenset
) -> None:
    got = fit(requested, effective)
    assert got and got <= effective
    assert got == (requested & effective if requested & effective else effective)


@given(some, some)
def test_what_we_gave_and_the_kernel_resets_to_is_not_a_new_request(requested: frozenset, effective: frozenset) -> None:
    for cpus in (fit(requested, effective), effective):
        assert requested_affinity(Pin("1:2", cpus, effective, ALL), requested, ALL) == requested


def test_what_the_owner_chose_since_is_the_wish() -> None:
    assert requested_affinity(Pin("1:2", frozenset({1}), frozenset(range(4)), ALL), frozenset({3, 5}), ALL) == {1}


@given(some, some)
def test_narrowed_and_widened_again_a_thread_has_its_request(requested: frozenset, effective: frozenset) -> None:
    recorded, narrow = targets([Pin("1:2", requested, ALL, effective)], {}, {}, ALL)["1:2"]
    again, wide = targets([Pin("1:2", narrow, effective, ALL)], {"1:2": recorded}, {}, ALL)["1:2"]
    assert recorded == again == wide == requested


def test_effective_cpus_by_the_kernel_s_rules() -> None:
    tree = [("/", ["/a", "/m", "/b"]), ("/a", ["/a/x"]), ("/m", ["/m/vm"]), ("/b", []), ("/a/x", []), ("/m/vm", [])]
    lists = {"/a": frozenset({0, 1, 5}), "/m": frozenset({4, 5, 6, 7}), "/a/x": frozenset({6})}
    partitions = {"/m": lists["/m"]}
    assert effective_cpus(lists, partitions, tree, ALL) == {
        "/": {0, 1, 2, 3},
        "/a": {0, 1},
        "/a/x": {0, 1},
        "/m": {4, 5, 6, 7},
        "/m/vm": {4, 5, 6, 7},
        "/b": {0, 1, 2, 3},
    }
