# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A VM that starts isolates its host, a VM that stops gives it back, through a real libvirt."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time

from .domains import (
    BUSY_IMAGE,
    define,
    destroy,
    ended,
    hooks_run,
    install,
    logged,
    process,
    seconds_of_vcpus,
    start,
    state,
    threads,
    vcpus,
    virsh,
)
from .ground import (
    CGROUP,
    JOURNAL,
    assert_isolated,
    cpus,
    differences,
    engine,
    read,
    sh,
    snapshot,
    unchanged,
)

CPUS = {"one": {4, 5}, "two": {6, 7}}


def _claims() -> set[str]:
    return set(json.loads(read(JOURNAL))["claims"]) if os.path.exists(JOURNAL) else set()


def _isolated_for(*names: str) -> None:
    """The host is isolated for these domains, each has its vCPUs on its CPUs, and for no others."""
    assert _claims() == set(names)
    if names:
        assert_isolated(set().union(*(CPUS[name] for name in names)))
        assert not engine().inspect()[1].changes
    for name in names:
        assert vcpus(name) == [{cpu} for cpu in sorted(CPUS[name])], threads(name)


def _two() -> dict[str, str]:
    """Two domains, and the state before any of them; what libvirt itself leaves after its first VM is part of that."""
    install("one", "two")
    define("one", "4,5")
    define("two", "6,7")
    sh("systemctl start machine.slice")
    return snapshot()


def check_start_and_destroy() -> None:
    """When QEMU runs, the host is isolated and each thread on its CPUs; when it is destroyed, all is as before."""
    install("one")
    define("one", "4,5", "6")
    sh("systemctl start machine.slice")
    before = snapshot()
    start("one")
    assert_isolated({4, 5, 6}, emulator={6})
    assert vcpus("one") == [{4}, {5}]
    assert {cpu for name, cpus in threads("one").items() if not name.startswith(("CPU", "worker")) for cpu in cpus} == {
        6
    }
    destroy("one")
    unchanged(before)
    assert not os.path.exists(JOURNAL)


def check_guest_powers_off() -> None:
    """A guest that ends by itself when `virsh shutdown` presses its power button."""
    before = _two()
    start("one")
    _isolated_for("one")
    time.sleep(5)  # until its one sector runs
    assert virsh("shutdown", "one").returncode == 0
    ended("one", "shut off (shutdown)")
    unchanged(before)


def check_qemu_killed() -> None:
    """A QEMU that is killed."""
    before = _two()
    start("one")
    _isolated_for("one")
    os.kill(process("one"), signal.SIGKILL)
    ended("one", "shut off (crashed)")
    unchanged(before)


def check_start_fails_after_prepare() -> None:
    """A VM whose QEMU does not start: what prepare did is given back."""
    before = _two()
    wrong = "<qemu:commandline><qemu:arg value='-no-such-option'/></qemu:commandline>"
    define("wrong", "4,5", inside=wrong)
    install("wrong")
    began = time.time()
    failed = virsh("start", "wrong")
    assert failed.returncode != 0 and "no-such-option" in failed.stdout, failed.stdout
    ended("wrong", "shut off (failed)")
    assert "'wrong': prepare: " in logged(began) and "'wrong': release: " in logged(began)
    unchanged(before)


def check_libvirt_restarts() -> None:
    """libvirtd restarts while a VM runs: the VM lives, its claim stays, and is given back when it ends."""
    before = _two()
    start("one")
    qemu, steps = process("one"), read(JOURNAL)
    sh("systemctl restart libvirtd")
    assert state("one").startswith("running")
    assert process("one") == qemu and read(JOURNAL) == steps
    _isolated_for("one")
    destroy("one")
    unchanged(before)


def check_two_in_every_order() -> None:
    """Two VMs that start and stop in every order: in between what those that run have claimed, at the end nothing.

    The two are alike, so one of them is always the first.
    """
    before = _two()
    orders = {("one", *order) for order in itertools.permutations(["one", "two", "two"])}
    assert len(orders) == 3
    for order in sorted(orders):
        running: list[str] = []
        for name in order:
            if name in running:
                destroy(name)
                running.remove(name)
            else:
                start(name)
                running.append(name)
            _isolated_for(*running)
        unchanged(before, f"after {order}")


def check_two_at_the_same_moment() -> None:
    """Two VMs that are started, and stopped, at the same moment."""
    before = _two()
    for verb, names in (("start", ("one", "two")), ("destroy", ())):
        both = [subprocess.Popen(["virsh", verb, name], stdout=subprocess.DEVNULL) for name in ("one", "two")]
        assert [one.wait() for one in both] == [0, 0]
        _isolated_for(*names)
    unchanged(before)


def check_emulator_elsewhere() -> None:
    """An emulator pinned to another CPU than the vCPUs: that is in the partition; where a claim keeps it out, the VM
    does not start, and the sentence names both sets."""
    before = _two()
    define("far", "6,7", "2")
    install(far={})
    start("far")
    assert_isolated({2, 6, 7}, emulator={2})
    assert threads("far")["qemu-system-x86"] == {2}
    destroy("far")
    unchanged(before)
    install(far={"isolate_emulator_cpus": "5"})
    failed = virsh("start", "far")
    assert failed.returncode != 0 and "cannot set CPU affinity" not in failed.stdout, failed.stdout
    assert "pinned to CPUs 2,6-7, but its claim has 5-7" in failed.stdout, failed.stdout
    unchanged(before)
    install(far={"isolate_emulator_cpus": "5", "isolate_strategy": "slices"})
    start("far")
    assert threads("far")["qemu-system-x86"] == {2}
    destroy("far")
    unchanged(before)


def check_emulator_on_all_that_is_left() -> None:
    """An emulator pinned to the host's CPUs, all of them: they are shared, without a partition."""
    before = _two()
    define("small", "4,5,6,7", "0-3")
    install("small")
    start("small")
    assert_isolated(strategy="slices")
    assert vcpus("small") == [{4}, {5}, {6}, {7}] and threads("small")["qemu-system-x86"] == {0, 1, 2, 3}
    destroy("small")
    unchanged(before)


def check_emulator_on_cpu_0() -> None:
    """An emulator and its domain as they are widespread: the host keeps CPU 0, unless the domain says otherwise."""
    before = _two()
    define("wide", "2,3,6,7", "0")
    install("wide")
    start("wide")
    assert_isolated({2, 3, 6, 7}, "slices")
    assert cpus(read(f"{CGROUP}/system.slice/cpuset.cpus.effective")) == {0, 1, 4, 5}
    assert vcpus("wide") == [{2}, {3}, {6}, {7}] and threads("wide")["qemu-system-x86"] == {0}
    destroy("wide")
    unchanged(before)
    install(wide={"isolate_emulator": "reserve"})
    start("wide")
    assert_isolated({0, 2, 3, 6, 7}, emulator={0})
    destroy("wide")
    unchanged(before)


def check_threads_that_float() -> None:
    """Four busy vCPUs with the same four CPUs have one each: in an isolated partition, they would share the first."""
    before = _two()
    define("loose", "", vcpu="<vcpu cpuset='4-7'>4</vcpu>", image=BUSY_IMAGE)
    shares = {}
    for kind, expected in (("auto", "root"), ("isolated", "isolated")):
        install(loose={"isolate_partition_type": kind})
        began = time.time()
        start("loose")
        assert read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") == expected
        assert "its vCPU 0 is pinned to several CPUs, 4-7" in logged(began)
        time.sleep(8)  # until the guest has woken them
        since, earlier = time.monotonic(), seconds_of_vcpus("loose")
        time.sleep(10)
        passed = time.monotonic() - since
        shares[kind] = [(now - earlier[i]) / passed for i, now in enumerate(seconds_of_vcpus("loose"))]
        destroy("loose")
        unchanged(before)
    print({kind: [round(share, 2) for share in each] for kind, each in shares.items()})
    assert len(shares["auto"]) == 4 and min(shares["auto"]) >= 0.8 > min(shares["isolated"]), shares


def check_real_time_vcpus() -> None:
    """A domain with real-time vCPUs and an emulator that is not pinned boots to its end: it is in no partition."""
    before = _two()
    tuned = "<vcpusched vcpus='0-1' scheduler='fifo' priority='1'/>"
    define("fast", "4,5", tuned=tuned)
    install("fast")
    start("fast")
    assert_isolated(CPUS["one"], "slices")
    policies = {os.sched_getscheduler(int(n)) for n in os.listdir(f"/proc/{process('fast')}/task")}
    assert os.SCHED_FIFO in policies
    time.sleep(5)  # until its one sector runs
    assert virsh("shutdown", "fast").returncode == 0
    ended("fast", "shut off (shutdown)")
    unchanged(before)
    install(fast={"isolate_strategy": "partition"})
    failed = virsh("start", "fast")
    assert failed.returncode != 0 and "<emulatorpin" in failed.stdout, failed.stdout
    unchanged(before)


def check_resource_partition() -> None:
    """A domain that libvirt puts into a slice of its own is isolated there."""
    before = _two()
    define("own", "4,5", inside="<resource><partition>/vfio</partition></resource>")
    install("own")
    start("own")
    assert_isolated({4, 5}, cgroup="vfio.slice")
    assert vcpus("own") == [{4}, {5}]
    destroy("own")
    unchanged(before)


def check_others_are_left_alone() -> None:
    """A VM that is not named is neither isolated for, nor confined to the CPUs of one that is, whichever is first."""
    before = _two()
    define("other", "", "0")
    install("one")
    began = time.time()
    start("other")
    assert _claims() == set() and logged(began) == ""
    with_other = snapshot()  # libvirt itself switches controllers on
    start("one")
    assert_isolated(CPUS["one"], "slices")
    assert vcpus("one") == [{4}, {5}] and vcpus("other") == [set(range(8))]
    destroy("one")
    assert vcpus("other") == [set(range(8))]
    # The kernel empties no list of a cgroup with tasks, and the VM keeps the controller on.
    left = [line for line in differences(with_other, snapshot()) if not line.endswith("cpuset.cpus: '' -> '0-7'")]
    assert not left, left
    assert "the kernel empties no list" in logged(began)
    destroy("other")
    unchanged(before)

    start("one")
    _isolated_for("one")
    start("other")
    assert_isolated(CPUS["one"], "slices")
    assert (
        vcpus("one") == [{4}, {5}] and vcpus("other") == [set(range(8))] and threads("other")["qemu-system-x86"] == {0}
    )
    assert "the claim one continues without a partition" in logged(began)
    destroy("one")
    destroy("other")
    unchanged(before)


def check_required() -> None:
    """Where isolating fails, a VM does not start and virsh says why; where that is not required, it starts."""
    before = _two()
    install(one={"isolate_strategy": "tasks"})
    failed = virsh("start", "one")
    assert failed.returncode != 0 and "strategy tasks: this host has cgroup v2" in failed.stdout, failed.stdout
    assert state("one") == "shut off (failed)"
    unchanged(before)
    install(one={"isolate_strategy": "tasks", "required": False})
    began = time.time()
    start("one")
    assert "strategy tasks: this host has cgroup v2" in logged(began)
    destroy("one")
    unchanged(before)


def check_nothing_is_left() -> None:
    """A domain's end leaves no process of the hook; taking the hook away while a VM runs gives its claim back."""
    from module_utils._engine.kernel.host import Host
    from module_utils._engine.paths import HOOK, ROOT, RUNNER
    from module_utils._install import Installation

    reload = "systemctl daemon-reload; systemctl daemon-reload"  # systemd takes back what VMs needed that have ended
    sh(reload)
    before = _two()
    start("one")
    assert not hooks_run()
    Installation(Host(), check=False).unhook()
    engine().revert(None, created_by="libvirt")
    assert cpus(read(f"{CGROUP}/cpuset.cpus.effective")) == set(range(8))
    assert state("one").startswith("running") and vcpus("one") == [{4}, {5}]
    assert not any(os.path.lexists(path) for path in (ROOT, HOOK, RUNNER, os.path.dirname(HOOK)))
    destroy("one")
    sh(reload)
    unchanged(before)


def check_two_emulators_on_the_host_s_cpus() -> None:
    """Two domains whose emulators are pinned to the CPUs of the host: when both run, they share these with it."""
    before = _two()
    for name in ("one", "two"):
        virsh("undefine", name)
        define(name, ",".join(map(str, sorted(CPUS[name]))), "0-3")
    start("one")
    assert_isolated(CPUS["one"], "slices")
    start("two")
    assert_isolated(strategy="slices")
    assert (
        threads("two")["qemu-system-x86"] == {0, 1, 2, 3} and vcpus("one") == [{4}, {5}] and vcpus("two") == [{6}, {7}]
    )
    destroy("one")
    destroy("two")
    unchanged(before)


def check_a_failing_hook_beside_a_partition() -> None:
    """A VM that starts though isolating for it fails is not confined to the CPUs of another one."""
    before = _two()
    install(one={}, two={"isolate_strategy": "tasks", "required": False})
    start("one")
    assert_isolated(CPUS["one"])
    start("two")
    assert_isolated(CPUS["one"], "slices")
    assert vcpus("one") == [{4}, {5}] and vcpus("two") == [{6}, {7}]
    destroy("two")
    destroy("one")
    unchanged(before)


def check_beside_a_partition_that_stays() -> None:
    """A VM beside a partition that was asked for, and with an emulator outside of it, does not start, and says why."""
    _two()
    define("far", "6,7", "0-3")
    install(one={"isolate_strategy": "partition"}, far={}, two={"isolate_strategy": "slices"})
    start("one")
    isolated = snapshot()
    for name, words in (
        ("far", "are all CPUs of this host"),
        ("two", "pinned to CPUs 6-7, but /machine.slice is in a partition that has 4-5"),
    ):
        failed = virsh("start", name)
        assert failed.returncode != 0 and words in failed.stdout, failed.stdout
        assert "cannot set CPU affinity" not in failed.stdout
        unchanged(isolated, f"after {name} did not start")
    destroy("one")


def check_nested_resource_partition() -> None:
    """A domain below machine.slice in a slice of its own: no partition can be made there, so it is slices."""
    before = _two()
    define("nested", "4,5", "3", inside="<resource><partition>/machine/foo</partition></resource>")
    install("nested")
    start("nested")
    assert_isolated({3, 4, 5}, "slices", emulator={3})
    assert vcpus("nested") == [{4}, {5}] and threads("nested")["qemu-system-x86"] == {3}
    destroy("nested")
    sh("systemctl stop machine-foo.slice")  # libvirt's
    unchanged(before)


def check_one_starts_while_another_stops() -> None:
    """However the start of one VM and the end of another meet, neither is harmed."""
    before = _two()
    start("one")
    for delay in (0.0, 0.5, 1.0, 1.5):
        running, coming = ("one", "two") if vcpus_or_none("one") else ("two", "one")
        stopping = subprocess.Popen(["virsh", "destroy", running], stdout=subprocess.DEVNULL)
        time.sleep(delay)
        start(coming)
        assert stopping.wait() == 0
        ended(running, "shut off (destroyed)")
        _isolated_for(coming)
    destroy(coming)
    unchanged(before)


def vcpus_or_none(name: str) -> list[set[int]]:
    """Where each vCPU of a domain may run; of one that does not run, none."""
    return vcpus(name) if state(name).startswith("running") else []
