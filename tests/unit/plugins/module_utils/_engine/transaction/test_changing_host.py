# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that changes under its claims: units and interrupts come and go, CPUs go offline, claims meet."""

from __future__ import annotations

import errno
from typing import Any, List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    engine,
    kill_at,
    step,
    whole_job,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cgroups import Cgroups
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.irqbalance import Irqbalance
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.systemd import Systemd
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import POSSIBLE
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    DEADLINE,
    KERNEL_THREAD,
    Baseline,
    Given,
    Killed,
    Task,
    numbers,
    os_error,
)


def take_offline(kernel: FakeKernel, cpu: int) -> None:
    """A CPU goes offline; it stays present."""
    kernel.hotplug(POSSIBLE - {cpu})


def bring_online(kernel: FakeKernel) -> None:
    """All CPUs are back."""
    kernel.hotplug(POSSIBLE)


def moved(source: str, target: str) -> List[Step]:
    """A claim that moves the tasks of a cgroup to one of its own."""
    return [step("cpuset", path=target, cpus="0-3"), step("move_tasks", source=source, target=target)]


@pytest.mark.parametrize("extended", [False, True])
def test_moved_processes_come_back_with_their_claim(extended: bool) -> None:
    with booted(Baseline(systemd=False)) as kernel:
        before = kernel.snapshot()
        steps = moved("/system.slice/a.service", "/host")
        if extended:
            for one in steps:
                engine(kernel).extend("vm", one)
        else:
            engine(kernel).apply("vm", steps)
        assert {t.cgroup for n, t in kernel.threads.items() if n in (106, 107)} == {"/host"}
        assert not engine(kernel).apply("vm", steps).changed
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_a_removed_cgroup_comes_back_with_its_list_and_its_processes() -> None:
    with booted(Baseline(systemd=False)) as kernel:
        engine(kernel).once(step("cpuset", path="/foo", cpus="2-3"))
        engine(kernel).once(step("move_tasks", source="/system.slice/a.service", target="/foo"))
        before = kernel.snapshot()
        engine(kernel).apply("vm", [step("cpuset", path="/foo", state="absent")])
        assert not kernel.exists(f"{CGROUP}/foo")
        engine(kernel).revert()
        assert kernel.snapshot() == before


@pytest.mark.parametrize("systemd", [True, False])
def test_a_cgroup_with_a_list_that_is_gone_needs_nothing_back(systemd: bool) -> None:
    with booted(Baseline(systemd=systemd, units=(("own.slice", Given("file", "0-5")),))) as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "slices"))
        kernel.part(Cgroups).remove("/own.slice")
        assert engine(kernel).revert().changed
        assert engine(kernel).inspect()[0].claims == {}


def test_a_drop_in_of_a_unit_that_is_gone_is_removed_all_the_same() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "slices"))
        kernel.part(Cgroups).remove("/own.slice")
        kernel.write("/sys/devices/system/cpu/cpufreq/policy2/scaling_governor", "powersave")
        assert engine(kernel).apply("vm", whole_job("4-7", "slices")).changed  # mends the drift
        engine(kernel).revert()
        assert not [path for path in kernel.files if "AllowedCPUs" in path]


def test_a_claim_that_cannot_be_planned_any_more_does_not_hold_up_the_others() -> None:
    with booted() as kernel:
        engine(kernel).apply("a", [step("cpu_governor", governor="performance", cpus="0")])
        before = kernel.snapshot()
        engine(kernel).apply("b", [step("irq_affinity", cpus="4-7", irqs=[1])])
        del kernel.irqs[1]
        outcome = engine(kernel).revert(["a"])
        assert "claim b, step 1 (irq_affinity) cannot be planned now" in " ".join(outcome.warnings)
        assert kernel.snapshot() != before
        assert engine(kernel).revert(["b"]).changed


def test_a_claimed_cpu_that_goes_offline_is_no_drift_and_comes_back() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", whole_job("4-7", "partition"))
        take_offline(kernel, 7)
        assert engine(kernel).inspect()[1].changes == []
        with pytest.raises(IsolationError, match="CPU 7 is not online"):
            engine(kernel).apply("other", whole_job("7", "partition"))
        bring_online(kernel)
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_a_host_cpu_that_goes_offline_stays_the_host_s() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "slices"))
        take_offline(kernel, 3)
        assert [c for c in engine(kernel).inspect()[1].changes if c.address.startswith("cgroup.")] == []
        engine(kernel).apply("vm", whole_job("4-7", "slices"))
        assert kernel.read(f"{CGROUP}/system.slice/cpuset.cpus") == "0-3"


def test_an_interrupt_without_a_cpu_of_its_own_may_use_one_that_is_offline_later_and_a_rollback_leaves_it_so() -> None:
    with booted(Baseline(irqs=("4", "0-7"))) as kernel:
        engine(kernel).apply("vm", [step("irq_affinity", cpus="1,4")])
        take_offline(kernel, 2)
        assert kernel.read("/proc/irq/0/smp_affinity_list") == "0,2-3,5-7"
        assert not engine(kernel).apply("vm", [step("irq_affinity", cpus="1,4")]).changed
        kernel.refuse = lambda what: os_error(errno.EBUSY) if "default_smp_affinity" in what else None
        with pytest.raises(IsolationError, match="Everything is back as it was"):
            engine(kernel).apply("vm", [step("irq_affinity", cpus="3")])
        assert kernel.read("/proc/irq/0/smp_affinity_list") == "0,2-3,5-7"
    with booted(Baseline(irqs=("4", "0-7"))) as kernel:
        take_offline(kernel, 2)
        engine(kernel).apply("vm", [step("irq_affinity", cpus="1,4")])
        assert kernel.read("/proc/irq/0/smp_affinity_list") == "0,2-3,5-7"


def test_a_rollback_narrows_no_slice_that_came_meanwhile_since_its_list_is_not_recorded() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", [step("reserve_cpus", cpus="1", strategy="slices")])
        kernel.part(Systemd).change(["systemctl", "start", "new.slice"])
        kernel.refuse = lambda what: os_error(errno.EBUSY) if "policy2" in what else None
        change = [
            step("reserve_cpus", cpus="4", strategy="partition"),
            step("cpu_governor", cpus="5", governor="powersave"),
        ]
        with pytest.raises(IsolationError, match="Everything is back as it was"):
            engine(kernel).apply("vm", change)
        kernel.refuse = None
        assert kernel.read(f"{CGROUP}/new.slice/cpuset.cpus") == ""
        engine(kernel).apply("vm", change)
        engine(kernel).revert()
        kernel.part(Systemd).change(["systemctl", "stop", "new.slice"])
        assert kernel.snapshot() == before


@pytest.mark.parametrize("count", range(1, 5))
def test_a_controller_that_is_refused_once_while_lists_are_emptied_is_back_after_the_rollback(count: int) -> None:
    tasks = (Task("/own.slice", "0-7", 0), Task("/init.scope", "0-7", 0))
    left = [count]

    def refuse(what: str) -> Any:
        left[0] -= "cgroup.subtree_control" in what
        return os_error(errno.EBUSY) if left == [0] and "cgroup.subtree_control" in what else None

    with booted(Baseline(delegated=True, tasks=tasks)) as kernel:
        engine(kernel).apply(
            "vm", [step("reserve_cpus", cpus="6", strategy="slices", cgroup="/machine.slice/vm.slice")]
        )
        before = kernel.snapshot()
        kernel.refuse = refuse
        with pytest.raises(IsolationError, match="Everything is back as it was"):
            engine(kernel).apply("vm", [step("reserve_cpus", cpus="1", strategy="partition")])
        assert left[0] <= 0 and kernel.snapshot() == before


def test_a_live_partition_changes_its_type_in_place() -> None:
    with booted() as kernel:
        engine(kernel).apply("a", [step("reserve_cpus", cpus="4-5", strategy="partition")])
        seen: List[Any] = []
        kernel.watch = lambda _what: seen.append(kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus.partition"))
        engine(kernel).apply("b", [step("reserve_cpus", cpus="6", emulator_cpus="2,3", strategy="partition")])
        engine(kernel).revert(["b"])
        assert set(seen) == {"isolated", "root"} and seen[-1] == "isolated"


def test_a_refusal_that_may_pass_is_tried_again_and_not_forgotten() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        full = "/proc/irq/0/smp_affinity_list"
        kernel.refuse = lambda what: os_error(errno.ENOSPC) if what.startswith(full) else None
        outcome = engine(kernel).apply("vm", whole_job("4-7", "partition"))
        assert "ENOSPC" in outcome.skipped["irq.affinity:0"]
        assert [change.address for change in engine(kernel).inspect()[1].changes] == ["irq.affinity:0"]
        kernel.refuse = None
        engine(kernel).apply("vm", whole_job("4-7", "partition"))
        kernel.refuse = lambda what: os_error(errno.ENOSPC) if what.startswith(full) else None
        with pytest.raises(IsolationError, match="not everything could be restored"):
            engine(kernel).revert()
        kernel.refuse = None
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_an_interrupt_born_while_narrow_gets_the_default_also_after_another_claim() -> None:
    with booted() as kernel:
        engine(kernel).apply("a", [step("irq_affinity", cpus="6-7")])
        kernel.irqs[9] = numbers("0-5")
        engine(kernel).apply("b", [step("irq_affinity", cpus="4-5")])
        assert kernel.read("/proc/irq/9/smp_affinity_list") == "0-3"
        engine(kernel).revert()
        assert kernel.read("/proc/irq/9/smp_affinity_list") == "0-7"


def test_masks_of_two_claims_on_one_cpuset_are_given_back_one_by_one() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        for claim, cpus in (("a", "4-5"), ("b", "6-7")):
            engine(kernel).apply(claim, [step("cpuset", path="/user.slice", cpus=cpus, operation="mask")])
        assert kernel.read(f"{CGROUP}/user.slice/cpuset.cpus") == "0-3"
        engine(kernel).revert(["a"])
        assert kernel.read(f"{CGROUP}/user.slice/cpuset.cpus") == "0-5"
        engine(kernel).revert(["b"])
        assert kernel.snapshot() == before


def test_kernel_threads_get_a_cpu_that_was_offline_when_they_were_confined() -> None:
    with booted() as kernel:
        take_offline(kernel, 7)
        engine(kernel).apply("vm", whole_job("4-6", "slices"))
        bring_online(kernel)
        engine(kernel).revert()
        assert kernel.threads[100].flags == KERNEL_THREAD
        assert kernel.threads[100].cpus == numbers("0-7")


def test_a_claim_that_changes_and_is_killed_at_any_write_is_given_back_whole() -> None:
    count = 0
    while True:
        count += 1
        with booted() as kernel:
            before = kernel.snapshot()
            engine(kernel).apply("vm", whole_job("4-7", "slices"))
            kernel.watch = kill_at(count)
            try:
                engine(kernel).apply("vm", [step("reserve_cpus", cpus="6-7", strategy="partition")])
            except Killed:
                kernel.watch = None
                engine(kernel).revert()
                assert kernel.snapshot() == before, f"killed after write {count}"
                continue
            assert count > 10
            return


@pytest.mark.parametrize("strategy", ["partition", "slices"])
def test_a_list_that_somebody_wrote_behind_systemd_comes_back(strategy: str) -> None:
    with booted() as kernel:
        kernel.write(f"{CGROUP}/cgroup.subtree_control", "+cpuset")
        kernel.write(f"{CGROUP}/own.slice/cpuset.cpus", "0-6")
        before = kernel.snapshot()
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_reverting_a_claim_that_is_not_there_says_which_there_are() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "slices"))
        outcome = engine(kernel).revert(["typo"])
        assert not outcome.changed and outcome.warnings == ["there is no claim typo on this host; there are: vm"]


def test_a_controller_that_somebody_else_enabled_stays_enabled() -> None:
    with booted() as kernel:
        kernel.write(f"{CGROUP}/cgroup.subtree_control", "+cpuset")
        before = kernel.snapshot()
        engine(kernel).apply("vm", [step("cpuset", path="/system.slice", cpus="0-3")])
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_a_cgroup_that_was_busy_once_is_removed_when_nothing_runs_in_it_any_more() -> None:
    with booted(Baseline(systemd=False)) as kernel:
        engine(kernel).once(step("cpuset", path="/foo", cpus="2-3"))
        kernel.add_thread(500, "/foo", "2-3", KERNEL_THREAD)
        absent = [step("cpuset", path="/foo", state="absent")]
        for _again in range(2):
            assert engine(kernel).apply("vm", absent).skipped["cgroup.exists:/foo"].startswith("something runs in it")
            assert [c.address for c in engine(kernel).inspect()[1].changes] == ["cgroup.exists:/foo"]
        del kernel.threads[500]
        assert "cgroup.exists:/foo" not in engine(kernel).apply("vm", absent).skipped
        assert not kernel.exists(f"{CGROUP}/foo")
        assert not engine(kernel).apply("vm", absent).changed


def test_a_task_moves_once_it_has_left_the_deadline_policy() -> None:
    with booted(Baseline(systemd=False)) as kernel:
        kernel.threads[106].policy = DEADLINE
        steps, address = moved("/system.slice/a.service", "/host"), "task.cgroup:106:5106"
        for _again in range(2):
            assert "SCHED_DEADLINE" in engine(kernel).apply("vm", steps).skipped[address]
            assert [c.address for c in engine(kernel).inspect()[1].changes] == [address]
        kernel.threads[106].policy = 0
        assert address not in engine(kernel).apply("vm", steps).skipped
        assert kernel.threads[106].cgroup == "/host"
        assert not engine(kernel).apply("vm", steps).changed


def test_only_what_the_kernel_keeps_for_good_is_not_tried_again() -> None:
    with booted(Baseline(systemd=False)) as kernel:
        engine(kernel).once(step("cpuset", path="/foo", cpus="2-3"))
        kernel.add_thread(500, "/foo", "2-3", KERNEL_THREAD)
        kernel.add_thread(501, "/foo", "2-3")
        kernel.threads[501].policy = DEADLINE
        kernel.irqs[4] = numbers("6")  # managed
        kernel.part(Irqbalance).start(700)
        kernel.part(Irqbalance).silent = True
        steps = [step("cpuset", path="/foo", state="absent"), step("irq_affinity", cpus="4-7")]
        reported = {"cgroup.exists:/foo", "task.cgroup:501:5501", "irqbalance.banned:700:5700"}
        for_good = {"task.cgroup:500:5500", "irq.affinity:4"}
        assert set(engine(kernel).apply("vm", steps).skipped) == reported | for_good
        assert set(engine(kernel).inspect()[0].permanent_skips) == for_good
        kernel.log.clear()
        assert set(engine(kernel).apply("vm", steps).skipped) == reported | for_good
        assert set(engine(kernel).inspect()[0].permanent_skips) == for_good


def test_an_interrupt_whose_cpus_are_offline_at_a_revert_gets_those_that_are_online_and_the_claim_goes() -> None:
    with booted(Baseline(irqs=("0-7", "6", "6-7"))) as kernel:
        engine(kernel).apply("vm", whole_job("4-7", "slices"))
        take_offline(kernel, 6)
        told = engine(kernel).revert(check=True)
        outcome = engine(kernel).revert()
        assert (told.changes, told.skipped) == (outcome.changes, outcome.skipped)
        assert outcome.skipped["irq.affinity:1"].startswith("its CPUs 6 are offline: it has all online ones")
        assert kernel.irqs[1] == POSSIBLE - {6} and kernel.irqs[2] == numbers("6-7")
        assert engine(kernel).inspect()[0].claims == {}
        engine(kernel).apply("next", whole_job("4-5", "slices"))
        assert engine(kernel).inspect()[1].notes["vm_cpus"] == "4-5"
