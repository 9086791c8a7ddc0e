# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel threads that begin during the isolation: no drift, and bound by the next run, which says so."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Address, Change
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.newcomers import apart
from ansible_collections.vfio.isolation.plugins.module_utils._facts import gather
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    STRATEGIES,
    engine,
    whole_job,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    FIXED,
    KERNEL_THREAD,
    numbers,
)

BEGUN = Change(Address("task.affinity", "900:5900"), "0-7", "0-3")


def begin(kernel: FakeKernel, number: int, flags: int = KERNEL_THREAD, cgroup: str = "/") -> None:
    """A thread begins; the kernel gives it all CPUs."""
    kernel.add_thread(number, cgroup, "0-7", flags)
    kernel.threads[number].cpus = numbers("0-7")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_kernel_thread_that_begins_is_no_drift_until_a_run_has_bound_it(strategy: str) -> None:
    job = whole_job("4-7", strategy)
    with booted() as kernel:
        engine(kernel).apply("vm", job)
        begin(kernel, 900)
        found = engine(kernel).inspect()[1]
        assert (found.changed, found.changes, list(found.newcomers)) == (False, [], [BEGUN])

        again = engine(kernel).apply("vm", job)
        assert again.changed and again.changes == [BEGUN]
        assert kernel.threads[900].cpus == numbers("0-3")
        found = engine(kernel).inspect()[1]
        assert (found.changes, list(found.newcomers)) == ([], [])
        assert not engine(kernel).apply("vm", job).changed

        kernel.threads[900].cpus = numbers("0-7")
        found = engine(kernel).inspect()[1]
        assert (found.changed, found.changes, list(found.newcomers)) == (True, [BEGUN], [])
        engine(kernel).revert()
        assert kernel.threads[900].cpus == numbers("0-7")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_thread_that_was_there_before_and_strays_is_drift(strategy: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        assert kernel.threads[103].cpus == numbers("0-3")  # it had 5
        kernel.threads[103].cpus = numbers("4")
        found = engine(kernel).inspect()[1]
        assert [change.address for change in found.changes] == ["task.affinity:103:5103"] and not found.newcomers


@pytest.mark.parametrize(("flags", "cgroup"), [(0, "/"), (KERNEL_THREAD, "/system.slice/a.service")])
def test_only_the_kernel_s_own_in_the_root_cgroup_are_told_apart(flags: int, cgroup: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "partition"))
        kernel.add_thread(900, cgroup, "2", flags)
        begin(kernel, 901)
        begin(kernel, 902, KERNEL_THREAD | FIXED)
        journal, _drift = engine(kernel).inspect()
        host = engine(kernel)
        newcomer = Change(Address("task.affinity", "901:5901"), "0-7", "0-3")
        ended = Change(Address("task.affinity", "903:5903"), "0-7", "0-3")
        other = Change(Address("cpufreq.governor", "policy0"), "a", "b")
        split = apart(host.resources, journal, [other, BEGUN, newcomer, ended])
        assert split == ([other, BEGUN], [newcomer])
        assert list(host.inspect()[1].newcomers) == [newcomer]


def test_the_facts_name_them() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "partition"))
        begin(kernel, 900)
        kernel.files["/proc/900/comm"] = "psimon"
        facts, _warnings = gather(engine(kernel))
        seen = {"address": "task.affinity:900:5900", "expected": "0-3", "actual": "0-7", "name": "psimon"}
        assert (facts["drift"], facts["new_kernel_threads"]) == ([], [seen])
