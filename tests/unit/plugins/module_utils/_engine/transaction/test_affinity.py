# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The affinities of threads, as pure functions."""

from __future__ import annotations

from typing import FrozenSet, Optional

from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.affinity import (
    Pin,
    effective_cpus,
    fit,
    requested_affinity,
)
from hypothesis import given
from hypothesis import strategies as st

Cpus = FrozenSet[int]
some = st.frozensets(st.integers(0, 7), min_size=1)
ALL = frozenset(range(8))


@given(some, some)
def test_a_thread_gets_of_its_requested_affinity_what_is_effective_or_all_that_is(
    requested: Cpus, effective: Cpus
) -> None:
    got = fit(requested, effective)
    assert got and got <= effective
    assert got == (requested & effective if requested & effective else effective)


def pin(cpus: Cpus, before: Cpus, reset: Optional[Cpus] = None) -> Pin:
    """A thread that has these CPUs, in a cgroup with these."""
    return Pin("1:2", cpus, before, ALL, frozenset(), {before, reset or before}, False)


@given(some, some, some)
def test_what_we_gave_and_what_the_kernel_resets_to_is_not_a_new_request(
    requested: Cpus, effective: Cpus, given_last: Cpus
) -> None:
    for cpus in (fit(requested, effective), effective, given_last):
        assert requested_affinity(pin(cpus, effective), requested, [given_last], ALL, ALL) == requested
    assert requested_affinity(pin(ALL, effective, ALL), requested, [given_last], ALL, ALL) == requested


def test_what_the_owner_chose_since_is_the_request() -> None:
    chosen = pin(frozenset({1}), frozenset(range(4)))
    assert requested_affinity(chosen, frozenset({3, 5}), [frozenset({3})], ALL, ALL) == {1}


@given(some, some, some)
def test_cpus_that_are_offline_do_not_count_as_a_choice(requested: Cpus, effective: Cpus, offline: Cpus) -> None:
    online = ALL - offline
    now = fit(requested, effective)
    if effective & online and now & online:
        seen = pin(now, effective & online)
        assert requested_affinity(seen, requested, [now], online, ALL) == requested


@given(some, some)
def test_narrowed_and_widened_again_a_thread_has_its_request(requested: Cpus, effective: Cpus) -> None:
    recorded = requested_affinity(pin(requested, ALL), None, [], ALL, ALL)
    narrow = fit(recorded, effective)
    again = requested_affinity(pin(narrow, effective), recorded, [narrow], ALL, ALL)
    assert recorded == again == fit(again, ALL) == requested


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
