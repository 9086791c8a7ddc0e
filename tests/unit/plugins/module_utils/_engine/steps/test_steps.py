# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each step by itself, on a model kernel: what it plans, and the sentence for what it cannot."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.strategy import choose
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel import (
    CGROUP,
    STOCK,
    Baseline,
    booted,
)


def planned(name: str, baseline: Baseline = STOCK, **given: Any) -> dict:
    """What a step alone would change, by address."""
    with booted(baseline) as kernel:
        outcome = engine(kernel).once(step(name, **given), check=True)
        return {change.address: change.after for change in outcome.changes}


def refused(name: str, baseline: Baseline = STOCK, **given: Any) -> str:
    """The sentence; and nothing was written."""
    with booted(baseline) as kernel:
        before = kernel.snapshot()
        with pytest.raises(IsolationError) as error:
            engine(kernel).once(step(name, **given))
        assert kernel.snapshot() == before
        return str(error.value)


def test_governor_is_set_for_the_policies_of_the_cpus() -> None:
    assert planned("cpu_governor", governor="performance", cpus="4,7") == {
        "cpufreq.governor:policy2": "performance",
        "cpufreq.governor:policy3": "performance",
    }


def test_governor_holds_the_energy_preference_that_it_locks() -> None:
    host = Baseline(preferences=("power",) * 4)
    changes = planned("cpu_governor", host, governor="performance", cpus="0")
    assert changes == {"cpufreq.governor:policy0": "performance", "cpufreq.preference:policy0": "performance"}


def test_an_energy_preference_that_is_not_offered_is_refused() -> None:
    host = Baseline(preferences=("power",) * 4)
    sentence = refused("cpu_governor", host, governor="powersave", energy_preference="warp")
    assert "policy0 has no 'warp'" in sentence and "power" in sentence


def test_irqs_are_chosen_by_number() -> None:
    assert planned("irq_affinity", cpus="4-7", irqs=[1]) == {"irq.affinity:1": "0-3"}
    assert "there is no interrupt 99" in refused("irq_affinity", cpus="4-7", irqs=[99])


def test_irqs_are_added_to_and_set() -> None:
    assert planned("irq_affinity", cpus="0", operation="add", irqs=[2]) == {"irq.affinity:2": "0,4"}
    assert planned("irq_affinity", cpus="6", operation="set", irqs=[2]) == {"irq.affinity:2": "6"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"names": ["nothing*"]}, "no interrupt's handler is named 'nothing*'"),
        ({"pci": ["1:00"]}, "is not a PCI address such as 0000:01:00.0"),
        ({"pci": ["0000:01:00.0"]}, "there is no PCI device 0000:01:00.0"),
        ({"cpus": "online"}, "are all CPUs of this host"),
    ],
)
def test_what_names_no_interrupt_is_refused(given: dict, words: str) -> None:
    assert words in refused("irq_affinity", **{"cpus": "4-7", **given})


def test_cpuset_operations() -> None:
    with booted() as kernel:
        engine(kernel).extend("c", step("cpuset", path="/held.slice", cpus="2-5"))
        assert kernel.read(f"{CGROUP}/held.slice/cpuset.cpus") == "2-5"
        engine(kernel).extend("c", step("cpuset", path="/held.slice", cpus="C6", operation="add"))
        assert kernel.read(f"{CGROUP}/held.slice/cpuset.cpus") == "2-6"
        engine(kernel).extend("c", step("cpuset", path="/held.slice", cpus="2-3", operation="mask"))
        assert kernel.read(f"{CGROUP}/held.slice/cpuset.cpus") == "4-6"
        with pytest.raises(IsolationError, match="the cpuset would be empty"):
            engine(kernel).extend("c", step("cpuset", path="/held.slice", cpus="4-6", operation="mask"))
        engine(kernel).revert()
        assert not kernel.exists(f"{CGROUP}/held.slice")


def test_a_cpuset_is_removed_and_comes_back() -> None:
    with booted() as kernel:
        engine(kernel).once(step("cpuset", path="/held.slice", cpus="2-3"))
        gone = engine(kernel).once(step("cpuset", path="/held.slice", state="absent"))
        assert gone.changed and not kernel.exists(f"{CGROUP}/held.slice")
        assert not engine(kernel).once(step("cpuset", path="/held.slice", state="absent")).changed


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "/", "cpus": "1"}, "name a cgroup below it"),
        ({"path": "/../x", "cpus": "1"}, "not the path of a cgroup"),
        ({"path": "/held.slice", "memory_migrate": True}, "memory_migrate: /held.slice is on cgroup v2"),
        ({"path": "/loose", "cpus": "1"}, "call it /loose.slice"),
        ({"path": "/gone.service", "cpus": "1"}, "only a .slice can be created"),
        ({"path": "/held.slice", "mems": "N9"}, "there is no NUMA node 9"),
        ({"path": "/held.slice", "state": "absent", "cpus": "1"}, "absent cannot have cpus"),
        ({"path": "/system.slice/a.service", "state": "absent"}, "is a running systemd unit"),
    ],
)
def test_a_cpuset_that_cannot_be_is_refused(given: dict, words: str) -> None:
    assert words in refused("cpuset", **given)


def test_tasks_are_moved_and_returned() -> None:
    with booted(Baseline(systemd=False)) as kernel:
        before = kernel.snapshot()
        outcome = engine(kernel).once(step("move_tasks", source="/system.slice/a.service", target="/own.slice"))
        assert outcome.changed
        assert not [thread for thread in kernel.threads.values() if thread.cgroup == "/system.slice/a.service"]
        engine(kernel).restore_prior(outcome.prior)
        assert kernel.snapshot() == before


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


@pytest.mark.parametrize(("asked", "version"), [("auto", 0), ("tasks", 2), ("partition", 1), ("slices", 1)])
def test_a_strategy_that_is_not_there_is_refused(asked: str, version: int) -> None:
    with pytest.raises(IsolationError, match="cgroup"):
        choose(asked, version, "6.1.0")


def test_compact_memory_names_the_nodes_there_are() -> None:
    assert "there is no NUMA node 7; nodes with memory are 0-1" in refused("compact_memory", nodes=["7"])
