# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interrupts: how they are chosen, and what is done to their affinities."""

from __future__ import annotations

import errno
import os

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import IRQBALANCE_SENT
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step, whole_job
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.irqbalance import Irqbalance
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.irqs import Irqs
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    numbers,
    os_error,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.single_step import (
    planned,
    refused,
)

MASK = step("irq_affinity", cpus="4-7")


def a_while_later(kernel: FakeKernel) -> None:
    """irqbalance shows what it was told, so nobody need remember it any more."""
    kernel.part(Irqbalance).scan()
    os.unlink(kernel.root + IRQBALANCE_SENT)


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


@pytest.mark.parametrize("banned", ["", "1"])
def test_irqbalance_keeps_off_the_vm_s_cpus_as_long_as_the_claim_is(banned: str) -> None:
    with booted() as kernel:
        kernel.part(Irqbalance).start(700, banned)
        before = kernel.snapshot()
        engine(kernel).apply("vm", [MASK])
        assert kernel.part(Irqbalance).banned == numbers(f"4-7,{banned}")
        for shows in ("the old ban", "the new ban"):
            assert engine(kernel).inspect()[1].changes == [], shows
            assert not engine(kernel).apply("vm", [MASK]).changed, shows
            kernel.part(Irqbalance).scan()
        a_while_later(kernel)
        assert not engine(kernel).apply("vm", [MASK]).changed
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_a_silence_of_irqbalance_is_told_each_time_and_ends_with_its_first_answer() -> None:
    with booted() as kernel:
        irqbalance = kernel.part(Irqbalance)
        irqbalance.start(700)
        irqbalance.silent = True
        for _again in range(3):
            outcome = engine(kernel).apply("vm", [MASK])
            assert "does not answer on its socket" in outcome.skipped["irqbalance.banned:700:5700"]
            assert "irqbalance.banned:700:5700" in engine(kernel).inspect()[1].skipped
        irqbalance.silent = False
        assert [change.address for change in engine(kernel).inspect()[1].changes] == ["irqbalance.banned:700:5700"]
        outcome = engine(kernel).apply("vm", [MASK])
        assert outcome.changed and "irqbalance.banned:700:5700" not in outcome.skipped
        assert irqbalance.banned == numbers("4-7")
        engine(kernel).revert()
        assert irqbalance.banned == numbers("")


def test_an_irqbalance_that_cannot_be_asked_is_said_with_its_process_number() -> None:
    with booted() as kernel:
        kernel.files["/proc/700/comm"] = "irqbalance\n"
        for outcome in (engine(kernel).apply("vm", [MASK]), engine(kernel).inspect()[1]):
            reason = outcome.skipped["irqbalance.banned"]
            assert reason == "irqbalance (process 700) has no socket in /run/irqbalance: it may move interrupts back"
        assert not engine(kernel).apply("vm", [MASK]).changed


def test_without_a_default_affinity_the_interrupts_are_moved_and_the_result_says_so() -> None:
    with booted() as kernel:
        kernel.part(Irqs).has_default = False
        before = kernel.snapshot()
        for check in (True, False):
            outcome = engine(kernel).apply("vm", [MASK], check)
            assert outcome.changed and not any(change.address.kind == "irq.default" for change in outcome.changes)
            assert outcome.skipped["irq.default:"] == "this host has no /proc/irq/default_smp_affinity"
        assert not engine(kernel).apply("vm", [MASK]).changed
        engine(kernel).revert()
        assert kernel.snapshot() == before


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, 524])
def test_an_interrupt_that_refuses_any_affinity_is_left_alone_and_no_change_in_the_second_run(code: int) -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        kernel.part(Irqs).fixed = {1: code}
        first = engine(kernel).apply("vm", [MASK])
        assert first.changed and "smp_affinity_list refused '0-3'" in first.skipped["irq.affinity:1"]
        again = engine(kernel).apply("vm", [MASK])
        assert not again.changed and "irq.affinity:1" in again.skipped
        assert engine(kernel).inspect()[1].changes == []
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_an_interrupt_whose_present_cpus_are_offline_is_not_taken_for_one_that_refuses_any_affinity() -> None:
    with booted() as kernel:
        kernel.part(Irqs).fixed = {1: errno.EINVAL}
        kernel.hotplug(numbers("0-2,4-7"))
        kernel.irqs[1] = numbers("3")
        engine(kernel).apply("vm", [MASK])
        assert "irq.affinity:1" not in engine(kernel).inspect()[0].permanent_skips
        kernel.part(Irqs).fixed = {}
        engine(kernel).apply("vm", [MASK])
        assert kernel.irqs[1] == numbers("0-3")


def test_an_interrupt_that_refuses_one_affinity_is_tried_again() -> None:
    with booted() as kernel:
        kernel.refuse = lambda what: os_error(errno.EINVAL) if "/proc/irq/1/" in what else None
        engine(kernel).apply("vm", [MASK])
        kernel.refuse = None
        assert [change.address for change in engine(kernel).inspect()[1].changes] == ["irq.affinity:1"]
        assert engine(kernel).apply("vm", [MASK]).changed


def test_a_ban_that_irqbalance_does_not_take_is_told_and_tried_again() -> None:
    with booted() as kernel:
        irqbalance = kernel.part(Irqbalance)
        irqbalance.start(700)
        kernel.refuse = lambda what: OSError(32, "Broken pipe") if "settings cpus" in what else None
        assert "Broken pipe" in engine(kernel).apply("vm", [MASK]).skipped["irqbalance.banned:700:5700"]
        kernel.refuse = None
        engine(kernel).apply("vm", [MASK])
        assert irqbalance.banned == numbers("4-7")


def test_a_ban_that_somebody_lifted_is_drift_and_comes_back() -> None:
    with booted() as kernel:
        irqbalance = kernel.part(Irqbalance)
        irqbalance.start(700)
        engine(kernel).apply("vm", [MASK])
        irqbalance.banned = numbers("4")
        a_while_later(kernel)
        assert engine(kernel).inspect()[1].changes == [("irqbalance.banned:700:5700", "4", "4-7")]
        engine(kernel).apply("vm", [MASK])
        assert irqbalance.banned == numbers("4-7")


def test_an_irqbalance_that_was_restarted_is_drift_and_has_its_own_ban_back_in_the_end() -> None:
    with booted() as kernel:
        irqbalance = kernel.part(Irqbalance)
        irqbalance.start(700)
        engine(kernel).apply("vm", [MASK])
        irqbalance.start(701, "0")
        before = kernel.snapshot()
        assert engine(kernel).inspect()[1].changes == [("irqbalance.banned:701:5701", "0", "0,4-7")]
        engine(kernel).apply("vm", [MASK])
        assert irqbalance.banned == numbers("0,4-7")
        engine(kernel).revert()
        assert kernel.snapshot()["irqbalance 701:5701"] == before["irqbalance 701:5701"] == "0"


def test_a_ban_that_cannot_be_lifted_stays_owed() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        kernel.part(Irqbalance).start(700)
        engine(kernel).apply("vm", [MASK])
        a_while_later(kernel)
        kernel.part(Irqbalance).silent = True
        with pytest.raises(IsolationError, match=r"not everything could be restored: .*irqbalance700\.sock"):
            engine(kernel).revert()
        kernel.part(Irqbalance).silent = False
        engine(kernel).revert()
        assert kernel.part(Irqbalance).banned == numbers("") and kernel.irqs[0] == numbers("0-7")
        assert before["/proc/irq/default"] == kernel.snapshot()["/proc/irq/default"]


def test_a_pattern_that_cannot_be_one_names_no_interrupt() -> None:
    """Up to Python 3.10 it is no pattern at all."""
    said = refused("irq_affinity", cpus="4-5", names=["[z-a]"])
    assert said.startswith("names: ") and "[z-a]" in said


@pytest.mark.parametrize("strategy", ["partition", "slices"])
def test_a_kernel_without_interrupts_is_no_failure_and_said(strategy: str) -> None:
    with booted() as kernel:
        kernel.part(Irqs).exist = False
        before = kernel.snapshot()
        outcome = engine(kernel).apply("vm", whole_job("4-7", strategy))
        assert outcome.skipped["irq.affinity"] == "this kernel has no /proc/irq: no interrupt can be moved"
        assert not engine(kernel).apply("vm", whole_job("4-7", strategy)).changed
        with pytest.raises(IsolationError, match="irqs: there is no interrupt 1"):
            engine(kernel).once(step("irq_affinity", cpus="4-7", irqs=[1]))
        engine(kernel).revert()
        assert kernel.snapshot() == before
