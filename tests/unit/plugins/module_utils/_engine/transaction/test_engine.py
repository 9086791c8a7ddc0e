# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole transactions of the engine on a model kernel: the laws of claims."""

from __future__ import annotations

import errno
import json
import os
from typing import Callable, Iterable, Optional

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError, TimeLimit
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import JOURNAL
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Outcome
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    STRATEGIES,
    baselines,
    changed_addresses,
    engine,
    jobs,
    kill_at,
    pinned,
    step,
    whole_job,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cpusets import Cpusets
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.irqs import Irqs
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.systemd import Systemd
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    FIXED,
    KERNEL_THREAD,
    Baseline,
    Given,
    Killed,
    Task,
    numbers,
    os_error,
    text_of,
)
from hypothesis import given
from hypothesis import strategies as st

# A host with one of everything that makes giving back hard.
HARD = Baseline(
    units=(
        ("system.slice", Given("file", "0-5")),
        ("user.slice", Given("runtime", "2-7")),
        ("own.slice", Given("persistent", "1,4")),
        ("a.service", Given("override", "1-6")),
    ),
    governors=("ondemand", "powersave", "conservative", "schedutil"),
    preferences=("power", "default", "balance_power", "balance_performance"),
)
HARD_WITHOUT_SYSTEMD = HARD._replace(systemd=False)
HOSTS = {
    "plain": Baseline(),
    "hard": HARD,
    "hard, without systemd": HARD_WITHOUT_SYSTEMD,
    "hard, Linux 6.12": HARD._replace(remembers=True, refuses_by_mode=True, delegated=True, machine_slice=True),
    "hard, Linux 7.2": HARD._replace(remembers=True, isolated_only=True, partitions=True, machine_slice=True),
}


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(HOSTS))
def host(request: pytest.FixtureRequest) -> Baseline:
    return HOSTS[request.param]


def journal_of(kernel: FakeKernel) -> Optional[dict]:
    try:
        with open(kernel.root + JOURNAL, encoding="utf-8") as stream:
            return dict(json.load(stream))
    except FileNotFoundError:
        return None


def back_to(before: dict, kernel: FakeKernel, outcome: Outcome) -> bool:
    """Whether all is as it was, but for lists that the kernel will not empty: they were named, and hold all CPUs."""
    now = kernel.snapshot()
    for address, reason in outcome.skipped.items():
        if address.startswith("cgroup.cpus:") and "empties no list" in reason:
            file = f"{CGROUP}{address.partition(':')[2]}/cpuset.cpus"
            assert (before[file], now[file]) == ("", "0-7")
            now[file] = ""
    assert now == before
    return True


# What isolation is


def test_the_vm_s_cpus_are_left_by_everything_that_can_move(strategy: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        for task in kernel.threads.values():
            if task.cgroup != "/machine.slice" and task.flags < 0x04000000:
                assert task.cpus <= numbers("0-3"), task.cgroup
        for number, cpus in kernel.irqs.items():
            assert number in kernel.part(Irqs).managed or cpus <= numbers("0-3")
        assert kernel.part(Irqs).default == numbers("0-3")
        assert kernel.governors == {0: "schedutil", 1: "schedutil", 2: "performance", 3: "performance"}
        for path in kernel.cgroups:
            if path != "/machine.slice" and (strategy == "partition" or path != "/"):
                assert kernel.effective(path) == numbers("0-3"), path


def test_a_partition_is_isolated_and_holds_the_vm_s_and_the_emulator_s_cpus() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "partition", emulator="3"))
        assert kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") == "isolated"
        assert kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus") == "3-7"


def test_a_partition_with_several_emulator_cpus_is_of_type_root() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "partition", emulator="2-3"))
        assert kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") == "root"


def test_isolation_survives_daemon_reload_and_a_new_task(strategy: str, host: Baseline) -> None:
    with booted(host) as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        before = kernel.snapshot()
        if kernel.part(Systemd).running:
            kernel.part(Systemd).reload()
        assert kernel.snapshot() == before
        kernel.add_thread(900, "/system.slice/a.service", "0-7")
        assert kernel.threads[900].cpus <= numbers("0-3")


def test_threads_keep_what_is_left_of_their_wish(strategy: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        requested = {text_of(kernel.threads[number].cpus) for number in (106, 107, 108)}
        assert requested == {"0-3", "3", "1-2"}


def test_managed_interrupts_are_skipped_with_a_reason(host: Baseline) -> None:
    with booted(host) as kernel:
        kernel.irqs[4] = numbers("6")
        outcome = engine(kernel).apply("vm", whole_job("4-7", "slices"))
        assert outcome.skipped == {"irq.affinity:4": "managed by the kernel (no handler)"}
        assert kernel.irqs[4] == numbers("6")


# (a) apply and revert


def test_revert_gives_back_exactly_what_was(strategy: str, host: Baseline) -> None:
    with booted(host) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        assert kernel.snapshot() != before
        outcome = engine(kernel).revert(["vm"])
        assert back_to(before, kernel, outcome)
        assert journal_of(kernel) is None


@given(baselines(), jobs())
def test_revert_gives_back_exactly_what_was_on_any_host(baseline: Baseline, job: list) -> None:
    with booted(baseline) as kernel:
        before = kernel.snapshot()
        try:
            engine(kernel).apply("vm", job)
        except IsolationError as error:
            assert "all CPUs of this host" in str(error)
        outcome = engine(kernel).revert()
        assert back_to(before, kernel, outcome)


# (b) again


@given(baselines(), jobs())
def test_a_second_apply_writes_nothing(baseline: Baseline, job: list) -> None:
    with booted(baseline) as kernel:
        try:
            engine(kernel).apply("vm", job)
        except IsolationError:
            return
        kernel.log.clear()
        again = engine(kernel).apply("vm", job)
        assert kernel.log == []
        assert not again.changed and not again.changes and not again.actions
        assert engine(kernel).inspect()[1].changes == []


# (c) check mode


@given(baselines(), jobs())
def test_check_writes_nothing_and_announces_what_the_real_run_changes(baseline: Baseline, job: list) -> None:
    with booted(baseline) as kernel:
        before, threads = kernel.snapshot(), pinned(kernel)
        try:
            announcement = engine(kernel).apply("vm", job, check=True)
        except IsolationError:
            return
        assert kernel.log == [] and kernel.snapshot() == before and journal_of(kernel) is None
        done = engine(kernel).apply("vm", job)
        assert announcement.changes == done.changes
        assert announcement.changed and done.changed
        seen = changed_addresses(before, kernel.snapshot(), threads)
        announced = {change.address for change in announcement.changes}
        assert announced - {a for a in announced if a.startswith("task.affinity:")} == {
            a for a in seen if not a.startswith("task.affinity:")
        }
        assert seen <= announced
        assert {a for a in announced if a.startswith("task.affinity:")} <= changed_addresses(
            before, kernel.snapshot(), set(kernel.threads)
        )


@given(baselines(), jobs())
def test_check_of_a_revert_announces_what_the_real_revert_changes(baseline: Baseline, job: list) -> None:
    with booted(baseline) as kernel:
        try:
            engine(kernel).apply("vm", job)
        except IsolationError:
            return
        during = kernel.snapshot()
        kernel.log.clear()
        announcement = engine(kernel).revert(["vm"], check=True)
        assert kernel.log == [] and kernel.snapshot() == during
        done = engine(kernel).revert(["vm"])
        # Only the kernel's answer tells which lists it will not empty.
        assert [change for change in announcement.changes if change.address not in done.skipped] == done.changes


def test_prior_is_address_and_value_just_before() -> None:
    with booted(HARD) as kernel:
        prior = engine(kernel).apply("vm", whole_job("4-7", "slices")).prior
        assert prior["cgroup.cpus:/system.slice"] == "0-5"
        assert prior["cpufreq.governor:policy2"] == "conservative"
        assert prior["irq.affinity:3"] == "1-5"
        assert prior["task.affinity:106:5106"] == "5"
        assert "cpufreq.governor:policy0" not in prior


@given(baselines(), st.sampled_from(STRATEGIES), st.data())
def test_prior_of_one_step_without_a_claim_leads_back(baseline: Baseline, strategy: str, data: st.DataObject) -> None:
    alone = data.draw(
        st.sampled_from([s for s in whole_job("4-7", strategy) if s.name not in ("drop_caches", "compact_memory")])
    )
    with booted(baseline) as kernel:
        before = kernel.snapshot()
        outcome = engine(kernel).once(alone)
        assert journal_of(kernel) is None
        assert back_to(before, kernel, engine(kernel).restore_prior(outcome.prior))


# (d) two claims


@given(baselines(), jobs(1, 4), jobs(4, 6), st.sampled_from(["first", "second"]))
def test_two_claims_in_either_order(baseline: Baseline, first: list, second: list, leaves: str) -> None:
    claims = {"first": first, "second": second}
    stays = "second" if leaves == "first" else "first"
    with booted(baseline) as alone:
        engine(alone).apply(stays, claims[stays])
        expected = alone.snapshot()
    with booted(baseline) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("first", first)
        try:
            engine(kernel).apply("second", second)
        except IsolationError as error:
            assert "all CPUs of this host" in str(error)
            return
        outcome = engine(kernel).revert([leaves])
        now = kernel.snapshot()
        # Beside the other claim's partition, a list that slices had narrowed stays: it goes with that claim.
        for address in outcome.skipped:
            if address.startswith("cgroup.cpus:"):
                file = f"{CGROUP}{address.partition(':')[2]}/cpuset.cpus"
                assert not numbers(now[file] or "") & numbers(now[f"{CGROUP}/machine.slice/cpuset.cpus"] or "")
                now[file] = expected[file]
        assert now == expected
        outcome = engine(kernel).revert([stays])
        assert back_to(before, kernel, outcome)


@given(baselines(), jobs(1, 6), jobs(1, 6))
def test_a_claim_that_changes_is_what_a_fresh_one_would_be(baseline: Baseline, old: list, new: list) -> None:
    with booted(baseline) as fresh:
        engine(fresh).apply("vm", new)
        expected = fresh.snapshot()
    with booted(baseline) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", old)
        engine(kernel).apply("vm", new)
        assert kernel.snapshot() == expected
        outcome = engine(kernel).revert()
        assert back_to(before, kernel, outcome)


# (e) killed


def writes_of(baseline: Baseline, job: list) -> int:
    with booted(baseline) as kernel:
        engine(kernel).apply("vm", job)
        return kernel.writes


def killed_after(kernel: FakeKernel, count: int, job: list) -> None:
    kernel.watch = kill_at(count)
    with pytest.raises(Killed):
        engine(kernel).apply("vm", job)
    kernel.watch = None


def test_killed_after_any_single_write_revert_gives_back_and_apply_completes(strategy: str) -> None:
    host = HARD
    job = whole_job("4-7", strategy)
    with booted(host) as kernel:
        engine(kernel).apply("vm", job)
        complete = kernel.snapshot()
    for count in range(1, writes_of(host, job) + 1):
        with booted(host) as kernel:
            before = kernel.snapshot()
            killed_after(kernel, count, job)
            where = kernel.log[-1]
            outcome = engine(kernel).revert()
            assert back_to(before, kernel, outcome), f"reverted, killed after write {count}: {where}"
        with booted(host) as kernel:
            before = kernel.snapshot()
            killed_after(kernel, count, job)
            engine(kernel).apply("vm", job)
            assert kernel.snapshot() == complete, f"completed, killed after write {count}: {where}"
            outcome = engine(kernel).revert()
            assert back_to(before, kernel, outcome), f"reverted at last, killed after write {count}: {where}"


@given(baselines(), jobs(1, 6), st.data())
def test_killed_anywhere_on_any_host(baseline: Baseline, job: list, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, writes_of(baseline, job)))
    with booted(baseline) as kernel:
        before = kernel.snapshot()
        killed_after(kernel, count, job)
        outcome = engine(kernel).revert()
        assert back_to(before, kernel, outcome)


def test_a_revert_that_is_killed_after_any_single_write_is_completed_by_the_next(strategy: str) -> None:
    host = HARD
    job = whole_job("4-7", strategy)
    count = 0
    while True:
        count += 1
        with booted(host) as kernel:
            before = kernel.snapshot()
            engine(kernel).apply("vm", job)
            kernel.watch = kill_at(count)
            try:
                engine(kernel).revert()
            except Killed as where:
                kernel.watch = None
                outcome = engine(kernel).revert()
                assert back_to(before, kernel, outcome), f"killed after write {count}: {where}"
                continue
            assert count > 10
            return


# (f) refused


def refusing(count: int) -> tuple:
    """A fault at the write number `count`, and what it hit."""
    left, hit = [count], []

    def refuse(what: str) -> Optional[OSError]:
        left[0] -= 1
        if left[0] == 0:
            hit.append(what)
            return os_error(errno.ENOMEM)
        return None

    return refuse, hit


def test_refused_at_any_single_write_everything_is_back_and_the_sentence_names_step_and_file(strategy: str) -> None:
    host = HARD
    job = whole_job("4-7", strategy)
    names = [s.name for s in job]
    count = 0
    while True:
        count += 1
        with booted(host) as kernel:
            before = kernel.snapshot()
            refuse, hit = refusing(count)
            kernel.refuse = refuse
            sentence = ""
            try:
                outcome = engine(kernel).apply("vm", job)
            except IsolationError as error:
                sentence = str(error)
            else:
                if not hit:
                    assert count > 10
                    return
                # One interrupt that does not move is no reason to fail: it is named.
                assert "smp_affinity_list" in hit[0]
                assert any("Cannot allocate memory" in reason for reason in outcome.skipped.values())
                continue
            if "back as it was, except cgroup.cpus:/init.scope: the kernel empties no list" in sentence:
                before[f"{CGROUP}/init.scope/cpuset.cpus"] = "0-7"
            assert kernel.snapshot() == before, f"{hit}: {sentence}"
            assert journal_of(kernel) is None, f"{hit}: {sentence}"
            assert "back as it was" in sentence
            assert "Cannot allocate memory" in sentence
            if "saved /run/vfio-isolation/" not in hit[0]:
                what = hit[0][len("saved ") :] if hit[0].startswith("saved ") else hit[0]
                file = what.split(" = ")[0] if " = " in what else what.split(" -- ")[-1].split()[0]
                assert file in sentence
                assert any(f"step {index} ({name})" in sentence for index, name in enumerate(names, 1)), sentence


def test_a_partition_that_the_kernel_declares_invalid_is_a_failure_with_its_reason() -> None:
    with booted() as kernel:
        kernel.watch = lambda what: (
            kernel.part(Cpusets).set_cpus("/own.slice", numbers("5"))
            if what.endswith("cgroup.subtree_control = +cpuset")
            else None
        )
        with pytest.raises(IsolationError) as error:
            engine(kernel).apply("vm", whole_job("4-7", "partition"))
        assert "isolated invalid (Cpu list in cpuset.cpus not exclusive)" in str(error.value)
        assert "step 3 (reserve_cpus)" in str(error.value)


def test_a_failure_in_a_second_claim_leaves_the_first_as_it_was(strategy: str) -> None:
    with booted(HARD) as kernel:
        engine(kernel).apply("first", whole_job("6-7", strategy))
        during, journal = kernel.snapshot(), journal_of(kernel)
        kernel.refuse = lambda what: (
            os_error(errno.EINVAL) if "policy1/scaling_governor = performance" in what else None
        )
        with pytest.raises(IsolationError, match=r"step 2 \(cpu_governor\).*policy1/scaling_governor.*back as it was"):
            engine(kernel).apply("second", whole_job("2-4", strategy))
        assert kernel.snapshot() == during
        assert journal_of(kernel) == journal


def test_a_rollback_that_fails_says_so_and_restore_goes_on() -> None:
    with booted(HARD) as kernel:
        before = kernel.snapshot()
        kernel.refuse = lambda what: (
            os_error(errno.EIO)
            if "policy3/scaling_governor" in what or ("policy2/scaling_governor = conservative" in what)
            else None
        )
        with pytest.raises(IsolationError, match=r"Rolling back failed in part: .*policy2.*Run restore"):
            engine(kernel).apply("vm", whole_job("4-7", "slices"))
        kernel.refuse = None
        outcome = engine(kernel).revert()
        assert back_to(before, kernel, outcome)
        assert journal_of(kernel) is None


def raising(number: int, error: Exception) -> Callable[[str], None]:
    """A watcher that raises this after the write number `number`."""
    left = [number]

    def watch(_what: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error

    return watch


ANY_ERROR = pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EIO, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (TimeLimit("this took too long"), "this took too long"),
        (ZeroDivisionError("x"), "ZeroDivisionError: x"),
    ],
)


@ANY_ERROR
def test_whatever_fails_at_any_write_of_a_claim_is_rolled_back_and_said_in_one_sentence(
    error: Exception, words: str
) -> None:
    count = 0
    while True:
        count += 1
        with booted(HARD) as kernel:
            engine(kernel).apply("first", whole_job("6-7", "slices"))
            before, journal = kernel.snapshot(), journal_of(kernel)
            kernel.watch = raising(count, error)
            try:
                engine(kernel).apply("vm", whole_job("4-5", "slices"))
            except IsolationError as raised:
                assert str(raised) == f"{words}. Everything is back as it was"
            else:
                assert count > 10
                return
            assert kernel.snapshot() == before and journal_of(kernel) == journal, f"write {count}"


@ANY_ERROR
def test_whatever_fails_at_any_write_of_one_step_is_rolled_back_and_said_in_one_sentence(
    error: Exception, words: str
) -> None:
    count = 0
    while True:
        count += 1
        with booted(HARD) as kernel:
            before = kernel.snapshot()
            kernel.watch = raising(count, error)
            sentence = ""
            try:
                engine(kernel).once(step("reserve_cpus", cpus="4-7", strategy="slices"))
            except IsolationError as raised:
                sentence = str(raised)
            if not sentence:
                assert count > 10
                return
            assert sentence.startswith(f"{words}. Everything is back as it was")
            if "except cgroup.cpus:/init.scope: the kernel empties no list" in sentence:
                before[f"{CGROUP}/init.scope/cpuset.cpus"] = "0-7"
            assert kernel.snapshot() == before, f"write {count}"


# (g) satisfied, and drift


def test_an_interrupt_that_moved_between_host_cpus_is_no_drift_and_stays(strategy: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        kernel.irqs[0] = numbers("2")
        kernel.log.clear()
        assert engine(kernel).inspect()[1].changes == []
        assert not engine(kernel).apply("vm", whole_job("4-7", strategy)).changed
        assert kernel.irqs[0] == numbers("2") and kernel.log == []


def test_an_interrupt_that_moved_onto_a_vm_cpu_is_drift_and_mended(strategy: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        kernel.irqs[0] = numbers("2,5")
        assert engine(kernel).inspect()[1].changes == [("irq.affinity:0", "2,5", "2")]
        assert engine(kernel).apply("vm", whole_job("4-7", strategy)).changed
        assert kernel.irqs[0] == numbers("2")


def test_a_governor_that_somebody_changed_is_drift_and_mended() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "slices"))
        kernel.governors[3] = "powersave"
        assert engine(kernel).inspect()[1].changes == [("cpufreq.governor:policy3", "powersave", "performance")]
        engine(kernel).apply("vm", whole_job("4-7", "slices"))
        assert kernel.governors[3] == "performance"
        engine(kernel).revert()
        assert kernel.governors[3] == "schedutil"


def test_an_invalid_partition_is_drift_and_mended(host: Baseline) -> None:
    with booted(host) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", whole_job("4-7", "partition"))
        during = kernel.snapshot()
        if kernel.part(Systemd).running:
            kernel.part(Systemd).change(
                ["systemctl", "set-property", "--runtime", "--", "init.scope", "AllowedCPUs=0-5"]
            )
        else:
            kernel.part(Cpusets).set_cpus("/init.scope", numbers("0-5"))
        assert "invalid" in str(kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus.partition"))
        drift = {change.address for change in engine(kernel).inspect()[1].changes}
        assert {"cgroup.partition:/machine.slice", "cgroup.cpus:/init.scope"} <= drift
        engine(kernel).apply("vm", whole_job("4-7", "partition"))
        assert kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") == "isolated"
        assert engine(kernel).inspect()[1].changes == []
        del before, during


def test_a_new_interrupt_that_inherited_the_narrow_default_gets_what_the_default_is_given_back_to(
    strategy: str,
) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        kernel.irqs[30] = kernel.part(Irqs).default
        engine(kernel).revert()
        assert kernel.irqs[30] == numbers("0-7")


# (i) threads


def test_a_thread_that_ended_is_left_alone(strategy: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        del kernel.threads[106]
        engine(kernel).revert()
        assert 106 not in kernel.threads and journal_of(kernel) is None


def test_a_thread_with_the_number_of_one_that_ended_is_left_alone(strategy: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        del kernel.threads[106]
        kernel.add_thread(106, "/system.slice/a.service", "0-7", start=99999)
        engine(kernel).revert()
        assert kernel.threads[106].cpus == numbers("0-7")


def test_a_thread_that_its_owner_pinned_anew_keeps_that(strategy: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        kernel.set_affinity(107, numbers("1"))
        assert engine(kernel).inspect()[1].changes == []
        engine(kernel).revert()
        assert kernel.threads[107].cpus == numbers("1")


def test_a_thread_that_was_pinned_while_isolated_keeps_that(strategy: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        kernel.set_affinity(109, numbers("2"))
        engine(kernel).revert()
        assert kernel.threads[109].cpus == numbers("2")


@given(baselines(), st.sampled_from(STRATEGIES), st.data())
def test_threads_come_and_go_and_are_pinned_anew(baseline: Baseline, strategy: str, data: st.DataObject) -> None:
    with booted(baseline) as kernel:
        before = kernel.snapshot()
        try:
            engine(kernel).apply("vm", whole_job("4-7", strategy))
        except IsolationError:
            return
        users = sorted(t for t, task in kernel.threads.items() if not task.flags & (KERNEL_THREAD | FIXED))
        for thread in data.draw(st.sets(st.sampled_from(users)) if users else st.just(set())):
            fate = data.draw(st.sampled_from(["ends", "reused", "pinned"]))
            task = kernel.threads[thread]
            if fate == "pinned":
                if not numbers("1,3") <= kernel.effective(task.cgroup):
                    before.pop(f"thread {thread}")
                    continue
                kernel.set_affinity(thread, numbers("1,3"))
                # Only where it differs from what we gave can it be told from it.
                expected = "1,3" if kernel.threads[thread].cpus == numbers("1,3") else None
            else:
                del kernel.threads[thread]
                expected = None
                if fate == "reused":
                    kernel.add_thread(thread, task.cgroup, "0-7", start=77777)
            if (
                expected
                and task.cpus not in (kernel.effective(task.cgroup),)
                and before[f"thread {thread}"][2] != "1,3"
            ):
                was = numbers(before[f"thread {thread}"][2])
                if (was & kernel.effective(task.cgroup) or kernel.effective(task.cgroup)) != numbers("1,3"):
                    before[f"thread {thread}"] = (task.start, task.cgroup, "1,3")
                    continue
            before.pop(f"thread {thread}")
        engine(kernel).revert()
        after = kernel.snapshot()
        assert {key: after[key] for key in before} == before


# Claims of single modules


def test_extend_adds_a_step_once_and_the_other_steps_stand() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        first, second = step("cpu_governor", cpus="4-7", governor="performance"), step("irq_affinity", cpus="4-7")
        assert engine(kernel).extend("vm", first).changed
        assert engine(kernel).extend("vm", second).changed
        kernel.log.clear()
        assert not engine(kernel).extend("vm", first).changed
        assert kernel.log == []
        assert kernel.governors[2] == "performance" and kernel.part(Irqs).default == numbers("0-3")
        outcome = engine(kernel).revert(["vm"])
        assert back_to(before, kernel, outcome)


def test_actions_run_for_a_new_claim_and_not_when_there_is_nothing_to_do() -> None:
    with booted() as kernel:
        outcome = engine(kernel).apply("vm", whole_job("4-7", "slices"))
        assert set(outcome.actions) == {"drop_caches", "compact_memory"}
        assert len(kernel.acted) == 3
        engine(kernel).apply("vm", whole_job("4-7", "slices"))
        assert len(kernel.acted) == 3


def test_the_journal_is_durable_before_the_first_setting_is_written(strategy: str) -> None:
    with booted(HARD) as kernel:
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        assert kernel.log[0] == f"saved {JOURNAL}"


def test_all_cpus_of_the_host_is_refused_and_nothing_is_written(strategy: str) -> None:
    with booted() as kernel:
        with pytest.raises(IsolationError, match="are all CPUs of this host; leave it at least one"):
            engine(kernel).apply("vm", whole_job("0-7", strategy))
        assert kernel.log == []


def test_revert_of_a_claim_that_is_not_there_does_nothing() -> None:
    with booted() as kernel:
        assert not engine(kernel).revert(["nobody"]).changed
        assert kernel.log == []


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 256])
def test_a_claim_needs_a_name(name: str) -> None:
    with booted() as kernel, pytest.raises(IsolationError, match="expected 1 to 255 printable characters"):
        engine(kernel).apply(name, whole_job("4-7", "slices"))


@pytest.mark.parametrize("address", ["cgroup.cpus:/../../etc", "irq.affinity:../../x", "nothing:1", "cgroup.cpus"])
def test_a_prior_that_points_elsewhere_is_refused(address: str) -> None:
    with booted() as kernel:
        with pytest.raises(IsolationError, match="is not the address of a setting"):
            engine(kernel).restore_prior({address: "0-3"})
        assert kernel.log == []


def test_a_task_in_a_unit_of_its_own() -> None:
    baseline = Baseline(tasks=(Task("/own.slice", "6"),))
    with booted(baseline) as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "partition"))
        assert kernel.threads[100].cpus == numbers("0-3")


def test_each_of_several_actions_of_one_name_has_its_own_report() -> None:
    with booted() as kernel:
        drop = step("drop_caches", sync=False)
        steps = [drop, step("compact_memory", nodes=["0"]), drop, step("compact_memory", nodes=["1"]), drop]
        actions = engine(kernel).apply("vm", steps).actions
        assert set(actions) == {"drop_caches", "drop_caches:3", "drop_caches:5", "compact_memory", "compact_memory:4"}
        assert [blocks["node"] for blocks in actions["compact_memory"]["free_huge_blocks"]] == [0]
        assert [blocks["node"] for blocks in actions["compact_memory:4"]["free_huge_blocks"]] == [1]
        assert len(kernel.acted) == 5


def test_the_position_of_an_action_is_that_in_the_list_of_steps() -> None:
    with booted() as kernel:
        quiet = step("cpu_governor", governor="performance")
        steps = [quiet, step("drop_caches", sync=False), step("irq_affinity", cpus="7"), step("drop_caches", sync=True)]
        assert set(engine(kernel).apply("vm", steps).actions) == {"drop_caches", "drop_caches:4"}
        assert engine(kernel).once(step("drop_caches")).actions == {"drop_caches": {"freed_bytes": 0}}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "given_names",
    [
        lambda: ["a", "typo", "a", "b", "typo"],
        lambda: (name for name in ("a", "typo", "a", "b", "typo")),
        lambda: iter({"a": 0, "typo": 0, "b": 0}),
        lambda: ("typo", "b", "a"),
    ],
)
def test_names_come_back_once_each_and_the_word_about_an_unknown_one_is_kept(
    given_names: Callable[[], Iterable[str]], check: bool
) -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        for name, cpus in (("a", "4"), ("b", "5"), ("c", "6")):
            engine(kernel).apply(name, [step("irq_affinity", cpus=cpus)])
        outcome = engine(kernel).revert(given_names(), check)
        assert sorted(outcome.notes["claims"]) == ["a", "b"] and outcome.changed
        assert outcome.warnings == ["there is no claim typo on this host; there are: a, b, c"]
        left = engine(kernel).inspect()[0].claims
        assert set(left) == ({"a", "b", "c"} if check else {"c"})
        engine(kernel).revert(iter(list(left)))
        assert kernel.snapshot() == before


def test_an_empty_list_of_names_reverts_nothing() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "slices"))
        for names in ([], iter(())):
            outcome = engine(kernel).revert(names)
            assert not outcome.changed and outcome.notes["claims"] == [] and outcome.warnings == []
        assert set(engine(kernel).inspect()[0].claims) == {"vm"}


@pytest.mark.parametrize("path", ["/x/y/z", "/" + "a/" * 500 + "b"])
@pytest.mark.parametrize("systemd", [True, False])
def test_a_prior_with_a_cgroup_in_one_that_does_not_exist_is_refused_in_a_sentence(path: str, systemd: bool) -> None:
    with booted(Baseline(systemd=systemd)) as kernel:
        before = kernel.snapshot()
        with pytest.raises(IsolationError, match=r"not everything could be restored: .*ENOENT"):
            engine(kernel).restore_prior({f"cgroup.exists:{path}": "present", f"cgroup.cpus:{path}": "1"})
        assert kernel.snapshot() == before


def test_without_the_right_to_bind_threads_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their affinities, which cpusets reset, could not be given back."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with booted() as kernel:
        engine(kernel).apply("before", whole_job("4", "slices"))
        kernel.files["/proc/self/status"] = "Name:\tpython3\nCapEff:\t000001ffff7fffff\n"
        before = kernel.snapshot()
        bind = step("kthread_affinity", cpus="6")
        for call in (
            lambda check: engine(kernel).apply("vm", whole_job("6", "slices"), check),
            lambda check: engine(kernel).extend("before", bind, check),
            lambda check: engine(kernel).once(bind, check),
            lambda check: engine(kernel).revert(None, check),
            lambda check: engine(kernel).restore_prior({"task.affinity:102:5102": "0-7"}, check),
        ):
            for check in (True, False):
                with pytest.raises(IsolationError, match="CAP_SYS_NICE"):
                    call(check)
        assert kernel.snapshot() == before
        governor = step("cpu_governor", governor="performance")
        assert engine(kernel).once(governor).changed and engine(kernel).inspect()[0].claims
