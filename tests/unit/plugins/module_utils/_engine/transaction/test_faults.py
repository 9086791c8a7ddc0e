# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A fault of ours in the middle of a run: what can be restored is restored, and one sentence says all that failed."""

from __future__ import annotations

from typing import Callable, Dict, List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError, TimeLimit, is_fault
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.irq import Irqs
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import JOURNAL
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step, whole_job
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)

FAULTS = (KeyError("x"), TypeError("x"), RecursionError("x"), MemoryError("x"), OSError(5, "x"))
JOB = whole_job("4-7", "slices")


def raising(numbers: Callable[[int], bool], error: Exception) -> Callable[[str], None]:
    """A watcher that raises this after the writes of these numbers."""
    made: List[str] = []

    def watch(what: str) -> None:
        made.append(what)
        if numbers(len(made)):
            raise error

    return watch


def claimed(kernel: FakeKernel) -> List[str]:
    """The names of the claims."""
    return list(engine(kernel).inspect()[0].claims)


@pytest.mark.parametrize("error", [KeyError("x"), OSError(5, "x")], ids=repr)
def test_a_fault_at_any_write_of_a_revert_keeps_nothing_else_from_being_restored(error: Exception) -> None:
    count = 0
    while True:
        count += 1
        with booted() as kernel:
            before = kernel.snapshot()
            engine(kernel).apply("vm", JOB)
            kernel.log.clear()
            kernel.watch = raising(lambda number, at=count: number == at, error)
            try:
                engine(kernel).revert()
            except (IsolationError, type(error)) as raised:
                assert type(error).__name__ in str(raised) if raised is not error else kernel.log[-1].endswith(JOURNAL)
                assert is_fault(raised)
                if "not everything could be restored" in str(raised):
                    now = kernel.snapshot()
                    assert sum(now[line] != before.get(line) for line in now) <= 8, "the rest is restored"
            else:
                assert count > 10
                return
            kernel.watch = None
            engine(kernel).revert()
            assert kernel.snapshot() == before, f"write {count}"


def test_a_fault_in_a_kind_s_reading_keeps_no_other_kind_from_being_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", JOB)
        written: List[str] = []

        def read(irqs: Irqs, name: str) -> str:
            if written:
                raise KeyError(name)
            return original(irqs, name)

        original = Irqs.read
        kernel.watch = lambda what: written.append(what) if "/proc/irq" in what else None
        with monkeypatch.context() as patch:
            patch.setattr(Irqs, "read", read)
            with pytest.raises(IsolationError, match="not everything could be restored: KeyError: "):
                engine(kernel).revert()
        wrong = {line for line, value in kernel.snapshot().items() if value != before.get(line)}
        assert all(line.startswith("/proc/irq/") for line in wrong), wrong
        kernel.watch = None
        engine(kernel).revert()
        assert kernel.snapshot() == before


@pytest.mark.parametrize("error", FAULTS, ids=repr)
@pytest.mark.parametrize("run", ["apply", "once"])
def test_a_fault_while_rolling_back_hides_nothing(run: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in a write, and then one wherever the way back begins."""
    with booted() as kernel:
        kernel.watch = raising(lambda number: number == 6, ZeroDivisionError("first"))

        def broken(*_given: object, **_more: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(
                "ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.execution.fold_prior",
                broken,
            )
            patch.setattr(
                "ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.execution.fold_claims",
                broken,
            )
            calls: Dict[str, Callable[[], object]] = {
                "apply": lambda: engine(kernel).apply("vm", JOB),
                "once": lambda: engine(kernel).once(step("reserve_cpus", cpus="4-7", strategy="slices")),
            }
            with pytest.raises(IsolationError, match=r"Error: first\. Rolling back failed in part: ") as raised:
                calls[run]()
        assert type(error).__name__ in str(raised.value) and is_fault(raised.value)


def test_a_time_limit_ends_a_revert_at_once_and_the_next_run_completes_it() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", JOB)
        kernel.log.clear()
        kernel.watch = raising(lambda number: number == 3, TimeLimit("late"))
        with pytest.raises(TimeLimit):
            engine(kernel).revert()
        assert len(kernel.log) == 3 and claimed(kernel) == ["vm"]
        kernel.watch = None
        engine(kernel).revert()
        assert kernel.snapshot() == before


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_what_belongs_to_a_claim_may_fail_and_so_may_taking_the_claim_back(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_given: object, **_more: object) -> None:
        raise error

    with booted() as kernel:
        monkeypatch.setattr(Engine, "revert", broken)
        with pytest.raises(IsolationError, match=r"ZeroDivisionError: .*The claim 'vm' is applied anyway: "):
            engine(kernel).apply_and_then("vm", JOB, False, lambda: 1 // 0)
