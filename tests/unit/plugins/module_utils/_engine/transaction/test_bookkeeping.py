# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the journal says before, between and after writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import (
    Address,
    Change,
    Claim,
    Journal,
    Skips,
    Step,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.planning.view import View
from ansible_collections.vfio.isolation.plugins.module_utils._engine.resources import Resources
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.bookkeeping import Bookkeeping
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.fold import Plan
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.kernel.mounted import V2

IRQ, OTHER = Address("irq.affinity", "1"), Address("irq.affinity", "2")
LIST, OTHER_LIST = Address("cgroup.cpus", "/a"), Address("cgroup.cpus", "/b")
DROP_IN = Address("systemd.AllowedCPUs", "a.slice")
THREAD, PLACE = Address("task.affinity", "12:34"), Address("task.cgroup", "12:34")
STEPS = (Step("drop_caches", {}),)


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    files = {"/proc/self/mountinfo": V2, "/sys/fs/cgroup/cgroup.controllers": "cpuset"}
    return Resources(FakeHost(str(tmp_path), files))


def claim(*holds: Address) -> Claim:
    """A claim that holds these."""
    return Claim(STEPS, holds)


def plan(resources: Resources, journal: Journal, changes: Iterable[Change] = (), **given: Any) -> Plan:
    """A plan that comes to these changes."""
    holds: Dict[str, set] = given.get("holds", {name: set() for name in journal.claims})
    view = View(resources, journal, journal.claims, {})
    return Plan(
        list(changes), [], view, given.get("requested", {}), given.get("given", {}), given.get("owed", set()), holds
    )


def test_what_is_about_to_be_touched_is_recorded_once_and_never_overwritten(resources: Resources) -> None:
    journal = Journal({IRQ: "0-7"}, {"old": claim(IRQ)}, "4")
    todo = plan(resources, journal, [Change(IRQ, "0-3", "0-1"), Change(OTHER, "5", "1")], holds={"new": {IRQ, OTHER}})
    todo.view.kept_off = frozenset({5})
    after = Bookkeeping(resources).recorded(journal, {"old": claim(IRQ), "new": claim()}, todo)
    assert after.baseline == {IRQ: "0-7", OTHER: "5"}
    assert after.claims == {"old": claim(IRQ), "new": claim(IRQ, OTHER)}
    assert after.kept_off == "4-5"  # until all is written


def test_of_a_thread_what_it_requested_is_recorded_and_brought_up_to_date(resources: Resources) -> None:
    journal = Journal({THREAD: "1"}, {"vm": claim(THREAD)})
    todo = plan(resources, journal, [Change(THREAD, "0-7", "0-3")], requested={THREAD: "2"})
    assert Bookkeeping(resources).recorded(journal, journal.claims, todo).baseline == {THREAD: "2"}
    assert Bookkeeping(resources).recorded(Journal({}, {}), {}, todo._replace(requested={})).baseline == {}


def test_what_was_forked_meanwhile_comes_from_where_it_was_first(resources: Resources) -> None:
    journal = Journal({}, {"vm": claim(), "other": claim()})
    swept = {"vm": [Change(PLACE, "/a", "/b"), Change(THREAD, "1", "2"), Change(PLACE, "/b", "/c")]}
    after, todo = Bookkeeping(resources).with_swept(journal, plan(resources, journal), swept)
    assert after.baseline == {PLACE: "/a", THREAD: "1"} and todo.requested == {THREAD: "1"}
    assert after.claims == {"vm": claim(THREAD, PLACE), "other": claim()}
    assert todo.holds == {"vm": {PLACE, THREAD}, "other": set()}
    assert Bookkeeping(resources).with_swept(journal, plan(resources, journal), {})[0] == journal


def test_what_no_claim_holds_is_forgotten_and_so_is_a_thread_that_has_ended(resources: Resources) -> None:
    journal = Journal({IRQ: "1", OTHER: "2", THREAD: "3"}, {"vm": claim(IRQ, THREAD)}, "", {IRQ: "managed"})
    after = Bookkeeping(resources).pruned(journal, plan(resources, journal), Skips())
    assert after == Journal({IRQ: "1"}, {"vm": claim(IRQ)}, "", {IRQ: "managed"})
    alive = plan(resources, journal, requested={THREAD: "3"})
    assert Bookkeeping(resources).pruned(journal, alive, Skips()).baseline == {IRQ: "1", THREAD: "3"}


def test_what_could_not_be_given_back_is_owed_by_the_claims_that_last(resources: Resources) -> None:
    journal = Journal({LIST: "0-3", DROP_IN: "none", IRQ: "1"}, {"stays": claim()})
    skips = Skips()
    skips.add(IRQ, "managed")
    assert Bookkeeping(resources).pruned(journal, plan(resources, journal), skips).baseline == {}
    skips.add(LIST, "the kernel empties no list")
    after = Bookkeeping(resources).pruned(journal, plan(resources, journal), skips)
    assert after == Journal({LIST: "0-3", DROP_IN: "none"}, {"stays": claim(LIST, DROP_IN)})
