# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel threads are kept off CPUs by their affinity."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    FIXED,
    Baseline,
    numbers,
)


def test_kernel_threads_are_kept_off_cpus_and_given_back() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        for claim in ("vm", None):
            keep = step("kthread_affinity", cpus="4-7")
            outcome = engine(kernel).apply(claim, [keep]) if claim else engine(kernel).once(keep)
            movable = [t for t in kernel.threads.values() if t.cgroup == "/" and not t.flags & FIXED]
            assert movable and all(thread.cpus <= numbers("0-3") for thread in movable)
            assert {change.address.partition(":")[0] for change in outcome.changes} == {"task.affinity"}
            if claim:
                assert not engine(kernel).apply(claim, [keep]).changed
                engine(kernel).revert()
            else:
                engine(kernel).restore_prior(outcome.prior)
            assert kernel.snapshot() == before


def test_under_a_partition_there_is_nothing_left_to_keep_off() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", [step("reserve_cpus", cpus="4-7", strategy="partition")])
        outcome = engine(kernel).apply("threads", [step("kthread_affinity", cpus="4-7")])
        assert not outcome.changes


@pytest.mark.parametrize("isolated_only", [False, True])
@pytest.mark.parametrize("kind", ["root", "isolated"])
def test_a_partition_has_no_kernel_thread_that_may_move(kind: str, isolated_only: bool) -> None:
    """Since Linux 7.0 the kernel keeps its threads off partitions of type isolated only."""
    with booted(Baseline(isolated_only=isolated_only)) as kernel:
        before = kernel.snapshot()
        job = [step("reserve_cpus", cpus="4-7", strategy="partition", partition_type=kind)]
        engine(kernel).apply("vm", job)
        movable = [t for t in kernel.threads.values() if t.cgroup == "/" and not t.flags & FIXED]
        assert movable and all(thread.cpus <= numbers("0-3") for thread in movable)
        assert not engine(kernel).apply("vm", job).changed and engine(kernel).inspect()[1].changes == []
        engine(kernel).revert()
        assert kernel.snapshot() == before
