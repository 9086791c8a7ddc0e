# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What threads and tasks were given last is recorded, so what they requested is known in spite of everything."""

from __future__ import annotations

import contextlib
import errno
from typing import Callable, List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, kill_at, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import POSSIBLE
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    KERNEL_THREAD,
    Baseline,
    Given,
    Killed,
    Task,
    numbers,
    os_error,
)

KSWAPD = 100
Strategy = Callable[..., Step]


def slices(cpus: str, cgroup: str = "/machine.slice") -> Step:
    """A reservation by slices."""
    return step("reserve_cpus", cpus=cpus, strategy="slices", cgroup=cgroup)


def partition(cpus: str, cgroup: str = "/machine.slice") -> Step:
    """A reservation by a partition."""
    return step("reserve_cpus", cpus=cpus, strategy="partition", cgroup=cgroup)


def host(kernel_threads: str = "4-7", **given: object) -> Baseline:
    """One with a kernel thread that is bound."""
    return Baseline(tasks=(Task("/", kernel_threads, KERNEL_THREAD),))._replace(**given)


@pytest.mark.parametrize(("first", "second"), [("4-7", "6-7"), ("6-7", "4-5")])
@pytest.mark.parametrize("count", range(1, 40))
def test_a_thread_has_what_it_requested_when_a_claim_changes_and_is_killed_at_any_write(
    count: int, first: str, second: str
) -> None:
    with booted(host()) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", [slices(first)])
        kernel.watch = kill_at(count)
        with contextlib.suppress(Killed):
            engine(kernel).apply("vm", [partition(second)])
        kernel.watch = None
        engine(kernel).apply("other", [slices("3", "/other.slice")])
        engine(kernel).revert()
        assert kernel.snapshot() == before


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("count", range(1, 14))
def test_a_thread_that_is_kept_off_more_than_its_cpuset_has_what_it_requested_after_a_kill(
    count: int, remembers: bool
) -> None:
    steps = [partition("1"), step("kthread_affinity", cpus="1-3")]
    with booted(Baseline(remembers=remembers, tasks=(Task("/", "0-4", 0),))) as kernel:
        before = kernel.snapshot()
        kernel.watch = kill_at(count)
        with contextlib.suppress(Killed):
            engine(kernel).apply("vm", steps)
        kernel.watch = None
        engine(kernel).apply("vm", steps)
        assert kernel.threads[100].cpus == {0, 4}
        engine(kernel).revert()
        assert kernel.snapshot() == before


@pytest.mark.parametrize("wanted", ["4-7", "5", "4,6"])
def test_a_claim_that_changes_to_a_partition_that_the_kernel_refuses_costs_no_thread_its_affinity(wanted: str) -> None:
    with booted(host(wanted)) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", [slices("6-7")])
        kernel.add_thread(300, "/own.slice", "0-7")
        isolated = kernel.snapshot()

        def spoil(what: str) -> None:
            """Somebody lists a CPU of the partition at the worst time."""
            if what.endswith("cpuset.cpus.partition = isolated"):
                kernel.watch = None
                kernel.write(f"{CGROUP}/own.slice/cpuset.cpus", "0-7")

        kernel.watch = spoil
        with pytest.raises(IsolationError, match="Everything is back as it was"):
            engine(kernel).apply("vm", [partition("4-5")])
        kernel.watch = None
        assert kernel.threads[KSWAPD].cpus == numbers(isolated[f"thread {KSWAPD}"][2])
        engine(kernel).revert()
        del kernel.threads[300]
        assert kernel.snapshot() == before


def test_a_kernel_thread_that_is_bound_anew_while_it_is_kept_off_keeps_that() -> None:
    with booted(host("0-7")) as kernel:
        engine(kernel).apply("vm", [slices("6-7")])
        kernel.set_affinity(KSWAPD, numbers("2"))
        assert engine(kernel).inspect()[1].changes == []
        engine(kernel).revert()
        assert kernel.threads[KSWAPD].cpus == numbers("2")


@pytest.mark.parametrize("strategy", [slices, partition])
def test_what_a_thread_chose_anew_is_known_after_a_run_that_changes_nothing(strategy: Strategy) -> None:
    with booted(Baseline(tasks=(Task("/system.slice/a.service", "0,3"),))) as kernel:
        engine(kernel).apply("vm", [strategy("6-7")])
        kernel.set_affinity(KSWAPD, numbers("2"))
        assert not engine(kernel).apply("vm", [strategy("6-7")], check=True).changed
        assert not engine(kernel).apply("vm", [strategy("6-7")]).changed
        written = len(kernel.log)
        assert not engine(kernel).apply("vm", [strategy("6-7")]).changed and len(kernel.log) == written
        offline(kernel, "5")
        kernel.hotplug(POSSIBLE)
        assert kernel.threads[KSWAPD].cpus == numbers("0-5"), "the kernel resets it"
        engine(kernel).apply("vm", [strategy("6-7")])
        assert kernel.threads[KSWAPD].cpus == numbers("2")
        kernel.set_affinity(KSWAPD, numbers("0,3"))  # what it had first, and what was given then
        engine(kernel).apply("vm", [strategy("6-7")])
        engine(kernel).revert()
        assert kernel.threads[KSWAPD].cpus == numbers("0,3")


@pytest.mark.parametrize("other", [slices("3"), step("cpuset", path="/user.slice", cpus="4-5,7")])
@pytest.mark.parametrize("chosen", ["", "2,4"])
def test_a_module_without_a_claim_leaves_what_claims_know_of_threads(other: Step, chosen: str) -> None:
    with booted(host("2,6")) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", [step("kthread_affinity", cpus="1-2,6")])
        if chosen:
            kernel.set_affinity(KSWAPD, numbers(chosen))
        prior = engine(kernel).once(other).prior
        engine(kernel).restore_prior(prior)
        engine(kernel).revert()
        assert kernel.threads[KSWAPD].cpus == numbers(chosen or "2,6")
        if not chosen:
            assert kernel.snapshot() == before


def test_a_prior_has_the_affinities_that_restoring_it_would_destroy() -> None:
    with booted(Baseline(tasks=(Task("/system.slice/b.service", "4"),))) as kernel:
        before = kernel.snapshot()
        outcome = engine(kernel).once(step("cpuset", path="/system.slice", cpus="4"))
        assert outcome.prior["task.affinity:100:5100"] == "4"
        engine(kernel).restore_prior(outcome.prior)
        assert kernel.snapshot() == before


@pytest.mark.parametrize("first", ["slices", "cpuset"])
def test_a_second_run_after_slices_and_a_cpuset_that_is_made_changes_nothing(first: str) -> None:
    steps = [slices("6-7"), step("cpuset", path="/made.slice", cpus="2-3")]
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", steps if first == "slices" else steps[::-1])
        assert not engine(kernel).apply("vm", steps if first == "slices" else steps[::-1]).changed
        assert engine(kernel).inspect()[1].changes == []
        engine(kernel).revert()
        assert kernel.snapshot() == before


def moved() -> List[Step]:
    """A claim that moves tasks."""
    return [
        step("cpuset", path="/host", cpus="0-3"),
        step("move_tasks", source="/system.slice/a.service", target="/host"),
    ]


@pytest.mark.parametrize("count", range(1, 12))
def test_moved_tasks_come_back_if_their_claim_gets_other_steps_and_is_killed(count: int) -> None:
    with booted(Baseline(systemd=False)) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", moved())
        kernel.add_thread(300, "/host", "0-3")  # forked by a task that was moved
        kernel.threads[300].parent = 106
        kernel.watch = kill_at(count)
        with contextlib.suppress(Killed):
            engine(kernel).apply("vm", [step("cpu_governor", cpus="0", governor="performance")])
        kernel.watch = None
        engine(kernel).revert()
        assert kernel.threads[300].cgroup == "/system.slice/a.service"
        del kernel.threads[300]
        assert kernel.snapshot() == before
        assert engine(kernel).inspect()[0].claims == {}


@pytest.mark.parametrize("strategy", [slices, partition])
def test_a_thread_that_begins_under_a_claim_is_known_after_a_run_that_changes_nothing(strategy: Strategy) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", [strategy("6-7")])
        kernel.add_thread(300, "/system.slice/a.service", "0,2")
        assert not engine(kernel).apply("vm", [strategy("6-7")]).changed
        written = len(kernel.log)
        assert not engine(kernel).apply("vm", [strategy("6-7")]).changed and len(kernel.log) == written
        offline(kernel, "5")
        kernel.hotplug(POSSIBLE)
        assert kernel.threads[300].cpus == numbers("0-5"), "the kernel resets it"
        engine(kernel).apply("vm", [strategy("6-7")])
        assert kernel.threads[300].cpus == numbers("0,2")
        engine(kernel).revert()
        assert kernel.threads[300].cpus == numbers("0,2")


@pytest.mark.parametrize("other", [slices("1"), step("kthread_affinity", cpus="1")])
def test_a_thread_that_only_a_module_without_a_claim_has_seen_has_what_it_requested_in_the_end(other: Step) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", [step("kthread_affinity", cpus="4-5")])
        kernel.add_thread(300, "/", "3-4,6", KERNEL_THREAD)
        prior = engine(kernel).once(other).prior
        assert kernel.threads[300].cpus == numbers("3,6")
        engine(kernel).restore_prior(prior)
        assert kernel.threads[300].cpus == numbers("3,6")
        engine(kernel).revert()
        assert kernel.threads[300].cpus == numbers("3-4,6")
        assert engine(kernel).inspect()[0].baseline == {}


@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_prior_leads_back_what_was_moved_and_nobody_else(is_claimed: bool) -> None:
    with booted(Baseline(systemd=False)) as kernel:
        if is_claimed:
            engine(kernel).apply("other", moved())
        else:
            engine(kernel).once(moved()[0])
        kernel.add_thread(300, "/user.slice", "0-7")  # it was in the target before
        kernel.add_thread(301, "/system.slice/b.service", "0-7")
        before = kernel.snapshot()
        prior = engine(kernel).once(step("move_tasks", source="/system.slice/b.service", target="/user.slice")).prior
        places = {address.name for address in prior if address.kind == "task.cgroup"}
        assert places == {"108:5108", "109:5109", "301:5301"}
        assert {address.name for address in prior} == places, "nobody else was moved"
        kernel.add_thread(302, "/user.slice", "0-7")  # nobody that was moved has forked it
        engine(kernel).restore_prior(prior)
        assert kernel.threads[302].cgroup == "/user.slice"
        del kernel.threads[302]
        assert kernel.snapshot() == before


# CPUs that are offline


def offline(kernel: FakeKernel, cpus: str) -> None:
    """Take these CPUs offline."""
    kernel.hotplug(POSSIBLE - numbers(cpus))


@pytest.mark.parametrize(("cgroup", "flags"), [("/", KERNEL_THREAD), ("/system.slice/a.service", 0)])
@pytest.mark.parametrize("strategy", [slices, partition])
@pytest.mark.parametrize("requested", ["5-6", "4-7", "0-7"])
def test_what_a_thread_requests_of_cpus_that_are_offline_is_given_back_when_they_are_online(
    requested: str, strategy: Strategy, cgroup: str, flags: int
) -> None:
    with booted(Baseline(tasks=(Task(cgroup, requested, flags),))) as kernel:
        before = kernel.snapshot()
        offline(kernel, "6-7")
        engine(kernel).apply("vm", [strategy("4-5")])
        engine(kernel).revert()
        kernel.hotplug(POSSIBLE)
        engine(kernel).revert()
        assert kernel.snapshot() == before
        assert engine(kernel).inspect()[0].baseline == {}


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("kill", [0, *range(1, 20)])
def test_a_thread_gets_no_cpu_that_is_offline_and_that_it_did_not_request(kill: int, remembers: bool) -> None:
    with booted(Baseline(tasks=(Task("/system.slice/a.service", "0-6"),), remembers=remembers)) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", [slices("6")])
        offline(kernel, "7")
        # The kernel gives it all CPUs when its cpuset is switched off; of these, only the others can be seen.
        kernel.watch = kill_at(kill) if kill else None
        with contextlib.suppress(Killed):
            engine(kernel).revert()
        kernel.watch = None
        engine(kernel).revert()
        kernel.hotplug(POSSIBLE)
        assert kernel.snapshot() == before


def test_a_governor_of_cpus_that_are_offline_is_restored_by_the_first_run_after_they_are_online() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", [step("cpu_governor", cpus="4-7", governor="performance")])
        offline(kernel, "6-7")
        outcome = engine(kernel).revert()
        assert "offline" in outcome.skipped["cpufreq.governor:policy3"]
        assert engine(kernel).inspect()[0].claims == {}
        kernel.hotplug(POSSIBLE)
        assert kernel.governors[3] == "performance"  # the kernel gives it the last one
        assert [c.address for c in engine(kernel).inspect()[1].changes] == ["cpufreq.governor:policy3"]
        assert engine(kernel).revert(check=True).changed
        engine(kernel).apply("next", [step("cpu_governor", cpus="0", governor="powersave")])
        assert kernel.governors[3] == "schedutil"
        engine(kernel).revert()
        assert kernel.snapshot() == before
        assert not engine(kernel).revert().changed


def test_a_governor_is_no_drift_while_its_cpus_are_offline_and_the_claim_can_be_applied_again() -> None:
    job = [step("cpu_governor", cpus="4-7", governor="performance")]
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", job)
        offline(kernel, "6-7")
        assert engine(kernel).inspect()[1].changes == []
        assert not engine(kernel).apply("vm", job).changed
        kernel.hotplug(POSSIBLE)
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_what_a_claim_lets_go_of_and_the_kernel_refuses_once_is_restored_by_the_next_run() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", [step("irq_affinity", cpus="4-7")])
        full = "/proc/irq/0/smp_affinity_list"
        kernel.refuse = lambda what: os_error(errno.ENOSPC) if what.startswith(full) else None
        outcome = engine(kernel).apply("vm", [slices("6-7")])
        assert "ENOSPC" in outcome.skipped["irq.affinity:0"]
        kernel.refuse = None
        assert [change.address for change in engine(kernel).inspect()[1].changes] == ["irq.affinity:0"]
        engine(kernel).revert()
        assert kernel.snapshot() == before


# Strategies in one cgroup


@pytest.mark.parametrize(("first", "second"), [(slices, partition), (partition, slices)])
@pytest.mark.parametrize("below", ["/machine.slice", "/machine.slice/machine-vms.slice"])
def test_claims_of_both_strategies_have_their_cpus_in_either_order(
    first: Strategy, second: Strategy, below: str
) -> None:
    cpus, places = {partition: "4-5", slices: "6-7"}, {partition: "/machine.slice", slices: below}
    with booted() as kernel:
        before = kernel.snapshot()
        for name, strategy in (("a", first), ("b", second)):
            engine(kernel).apply(name, [strategy(cpus[strategy], places[strategy])])
        assert kernel.effective("/machine.slice") == numbers("4-7")
        assert kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") == "root"
        assert kernel.effective("/system.slice") == numbers("0-3")
        engine(kernel).revert(["a"])
        engine(kernel).revert(["b"])
        assert kernel.snapshot() == before


@pytest.mark.parametrize(("first", "second"), [(slices, partition), (partition, slices)])
def test_a_cpu_inside_and_outside_of_a_partition_is_refused_with_both_names(first: Strategy, second: Strategy) -> None:
    with booted() as kernel:
        engine(kernel).apply("one", [first("4-5", "/machine.slice")])
        before = kernel.snapshot()
        with pytest.raises(IsolationError, match=r"CPU 5 cannot be in the partition .*'one'.*'two'"):
            engine(kernel).apply("two", [second("5-6", "/other.slice")])
        assert kernel.snapshot() == before


def test_a_list_around_the_vms_gets_their_cpus() -> None:
    with booted(Baseline(machine_slice=True, units=(("machine.slice", Given("override", "1")),))) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", [slices("6-7")])
        assert kernel.effective("/machine.slice") >= numbers("6-7")
        engine(kernel).revert()
        assert kernel.snapshot() == before


@pytest.mark.parametrize("operation", ["mask", "add"])
def test_a_list_that_steps_change_is_the_same_when_a_partition_beside_it_has_gone(operation: str) -> None:
    confine = step("cpuset", path="/made.slice", cpus="0", operation=operation)
    made = {"mask": "1-7", "add": "0-7"}[operation]
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("one", [confine])
        alone = kernel.snapshot()
        engine(kernel).apply("two", [partition("1,3")])
        assert not kernel.effective("/made.slice") & numbers("1,3")
        engine(kernel).revert(["two"])
        assert kernel.read(f"{CGROUP}/made.slice/cpuset.cpus") == made
        assert kernel.snapshot() == alone
        engine(kernel).revert()
        assert kernel.snapshot() == before


@pytest.mark.parametrize("machine_slice", [True, False])
@pytest.mark.parametrize("strategy", [slices, partition])
def test_a_drop_in_that_says_what_a_claim_wants_is_not_lost(strategy: Strategy, machine_slice: bool) -> None:
    units = (("machine.slice", Given("runtime", "6-7")),)
    with booted(Baseline(machine_slice=machine_slice, units=units)) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", [strategy("6-7")])
        assert not engine(kernel).apply("vm", [strategy("6-7")]).changed
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_a_list_of_which_all_cpus_go_offline_gets_none_of_the_vms() -> None:
    with booted(Baseline(units=(("own.slice", Given("runtime", "1,7")),))) as kernel:
        engine(kernel).apply("vm", [slices("6-7")])
        offline(kernel, "1")
        engine(kernel).apply("vm", [slices("6-7")])
        assert not kernel.effective("/own.slice") & numbers("6-7")
