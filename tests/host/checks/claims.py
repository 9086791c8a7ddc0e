# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several claims on one host: they add up, and each goes alone."""

from __future__ import annotations

import glob
import os
import random

from .ground import (
    CGROUP,
    affinity,
    assert_isolated,
    at_end,
    cpus,
    engine,
    isolate,
    job,
    kernel_is_at_least,
    kernel_threads,
    managed,
    process,
    put_online,
    read,
    refused,
    revert,
    sh,
    snapshot,
    step,
    take_offline,
    unchanged,
    user_threads,
    write,
)

SLICE = f"{CGROUP}/machine.slice"

CLAIMS = {"first": "4-5", "second": "6-7"}


def _alone(strategy: str) -> dict:
    states = {}
    for name, vm in CLAIMS.items():
        isolate(name, vm, strategy=strategy)
        states[name] = snapshot()
        revert()
    return states


def crosswise(strategy: str) -> None:
    """Two claims reverted in either order: in between exactly the other one's isolation, at the end the baseline."""
    before = snapshot()
    alone = _alone(strategy)
    unchanged(before)
    for gone, stays in (("first", "second"), ("second", "first")):
        for name, vm in CLAIMS.items():
            isolate(name, vm, strategy=strategy)
        assert_isolated(strategy=strategy)
        revert(gone)
        assert_isolated(cpus(CLAIMS[stays]), strategy)
        found = [key for key, value in alone[stays].items() if snapshot_now(key, value)]
        assert not found, found
        revert(stays)
        unchanged(before, f"after {gone}, then {stays}")


def snapshot_now(key: str, value: str) -> bool:
    """Whether a file of a snapshot reads otherwise now."""
    return key.startswith(("cgroup ", "irq ", "cpufreq ")) and "session" not in key and read(key.split(" ")[1]) != value


def check_two_under_partition() -> None:
    """Two claims reverted in either order: in between exactly the other one's isolation, at the end the baseline."""
    crosswise("partition")


def check_two_under_slices() -> None:
    """The same under slices."""
    crosswise("slices")


def check_what_was_granted() -> None:
    """A claim keeps its CPUs while one of them is offline, and when another claim comes meanwhile."""
    engine().apply("first", [step("reserve_cpus", cpus="node:1,^7")])
    assert read(f"{SLICE}/cpuset.cpus") == "4-6"
    take_offline(6)
    assert engine().inspect()[1].changes == []
    engine().apply("second", [step("reserve_cpus", cpus="7")])
    assert read(f"{SLICE}/cpuset.cpus") == "4-7" and read(f"{SLICE}/cpuset.cpus.effective") == "4-5,7"
    put_online(6)
    revert("second")
    assert read(f"{SLICE}/cpuset.cpus") == "4-6" and read(f"{SLICE}/cpuset.cpus.effective") == "4-6"
    assert read(f"{SLICE}/cpuset.cpus.partition") == "isolated"
    revert("first")
    assert read(f"{CGROUP}/cpuset.cpus.effective") == "0-7"


def check_unit_beside_a_growing_partition() -> None:
    """A unit that lists the CPUs of the second VM lets go of them before the partition has them."""
    sh("systemctl start own.slice && systemctl set-property --runtime own.slice AllowedCPUs=6-7")
    at_end(
        lambda: sh("systemctl stop own.slice; rm -rf /run/systemd/system.control/own.slice.d; systemctl daemon-reload")
    )
    before = snapshot()
    isolate("first", "4")
    isolate("second", "5-7")
    assert read(f"{SLICE}/cpuset.cpus.partition") == "isolated" and read(f"{SLICE}/cpuset.cpus") == "4-7"
    assert not cpus(read(f"{CGROUP}/own.slice/cpuset.cpus.effective")) & cpus("4-7")
    assert_isolated()
    revert("second")
    assert read(f"{SLICE}/cpuset.cpus.partition") == "isolated"
    revert("first")
    unchanged(before)


def check_step_that_would_invalidate_a_partition() -> None:
    """It is refused with the names of both claims, and nothing is written."""
    isolate("vm", "4-5")
    before = snapshot()
    overlap = step("cpuset", path="/own.slice", cpus="3-4")
    for call in (lambda: engine().apply("other", [overlap]), lambda: engine().once(overlap)):
        sentence = refused(call)
        assert sentence.startswith("/own.slice cannot have CPU 4, which the partition /machine.slice has"), sentence
        assert "the claim 'vm'" in sentence, sentence
    unchanged(before)
    assert read(f"{SLICE}/cpuset.cpus.partition") == "isolated"
    isolate("more", "6")
    revert()


def check_interrupt_whose_cpu_is_offline() -> None:
    """At a revert it gets the online CPUs, with a word, and the claim is gone."""
    files = sorted(glob.glob("/proc/irq/[0-9]*/smp_affinity_list"), key=lambda path: int(path.split("/")[3]))
    own = {path: read(path) for path in files if not managed(path)}
    at_end(lambda: [write(path, value) for path, value in own.items()])
    path = list(own)[-1]
    write(path, "6")
    engine().apply("vm", [step("irq_affinity", cpus="4-7", irqbalance=False)])
    take_offline(6)
    outcome = revert()
    assert engine().inspect()[0].claims == {}
    number = path.split("/")[3]
    assert outcome.skipped[f"irq.affinity:{number}"].startswith("its CPUs 6 are offline"), outcome.skipped
    assert read(path) == "0-5,7"


def check_governor_of_offline_cpus() -> None:
    """It is owed at a revert, and restored by the first run after its CPUs are online; the claim is gone at once."""
    governor = "/sys/devices/system/cpu/cpufreq/policy6/scaling_governor"
    before = snapshot()
    engine().apply("vm", [step("cpu_governor", governor="performance", cpus="4-7")])
    take_offline(6)
    take_offline(7)
    assert engine().inspect()[1].changes == []
    outcome = revert()
    assert "offline" in outcome.skipped["cpufreq.governor:policy6"], outcome.skipped
    assert engine().inspect()[0].claims == {}
    put_online(6)
    put_online(7)
    assert read(governor) == "performance"  # the kernel gives it the last one
    assert [change.address for change in engine().inspect()[1].changes] == ["cpufreq.governor:policy6"]
    assert revert().changed
    assert read(governor) == before[f"cpufreq {governor}"] != "performance"


def check_threads_bound_to_offline_cpus() -> None:
    """Whatever was offline while they were isolated, and in the revert, all threads have their affinities again.

    These are a process that is bound to 5-6, kswapd1, which is bound to 4-7, and those that are bound to nothing.
    """
    unbound = [thread for thread, _name in user_threads() if len(os.sched_getaffinity(thread)) == 8]
    for strategy in ("partition", "slices"):
        number, before = process("5-6"), kernel_threads("kswapd", "kthreadd")
        for cpu in (6, 7):
            take_offline(cpu)
        isolate(vm="3-4", strategy=strategy)
        # Newer kernels list CPUs that are offline for a kernel thread.
        assert affinity(number) == "5" and cpus(kernel_threads("kswapd1")["kswapd1"]) - {6, 7} == {5}
        revert()
        for cpu in (6, 7):
            put_online(cpu)
        revert()
        assert affinity(number) == "5-6", (strategy, affinity(number))
        assert kernel_threads("kswapd", "kthreadd") == before, strategy
        narrow = [read(f"/proc/{t}/comm") for t in unbound if os.path.exists(f"/proc/{t}") and affinity(t) != "0-7"]
        assert narrow == [], (strategy, narrow)


def check_partition_and_slices_in_one_cgroup() -> None:
    """Each claim has its CPUs, in either order, also if one is for a cgroup below the partition."""
    before = snapshot()
    for below in ("/machine.slice", "/machine.slice/machine-some.slice"):
        claims = [
            ("first", step("reserve_cpus", cpus="4-5", strategy="partition")),
            ("second", step("reserve_cpus", cpus="6-7", strategy="slices", cgroup=below)),
        ]
        for order in (claims, claims[::-1]):
            for name, reserved in order:
                engine().apply(name, [reserved])
            assert not engine().apply(name, [reserved]).changed
            assert read(f"{SLICE}/cpuset.cpus.partition") == "root"
            assert read(f"{SLICE}/cpuset.cpus.effective") == "4-7"
            assert read(f"{CGROUP}/cpuset.cpus.effective") == "0-3"
            revert(order[0][0])
            revert()
            unchanged(before, f"after {below}")
    engine().apply("first", [step("reserve_cpus", cpus="4-5", strategy="partition")])
    outside = [step("reserve_cpus", cpus="5-6", strategy="slices", cgroup="/vms.slice")]
    sentence = refused(lambda: engine().apply("second", outside))
    assert "CPU 5 cannot be in the partition /machine.slice and outside of it" in sentence, sentence


def check_refused_change_to_a_partition() -> None:
    """Kernel threads have their affinities after it, and after the revert."""
    undo = "systemctl stop own.slice; rm -rf /run/systemd/system.control/own.slice.d; systemctl daemon-reload"
    at_end(lambda: sh(undo))
    sh("systemctl start own.slice && systemctl set-property --runtime own.slice AllowedCPUs=0-3")
    before = kernel_threads("kswapd", "kcompactd", "kthreadd")
    engine().apply("vm", [step("reserve_cpus", cpus="6-7", strategy="slices")])
    isolated = kernel_threads("kswapd", "kcompactd", "kthreadd")

    def spoil(what: str) -> None:
        """Somebody takes a CPU of the partition at the worst time; since Linux 7.0 a list does not take it."""
        if "machine.slice AllowedCPUs=" in what:
            write(f"{CGROUP}/own.slice/cpuset.cpus", "0-5")
            if kernel_is_at_least(7, 0):
                write(f"{CGROUP}/own.slice/cpuset.cpus.exclusive", "5")

    sentence = refused(lambda: engine(spoil).apply("vm", [step("reserve_cpus", cpus="4-5", strategy="partition")]))
    assert "exclusive" in sentence and "Everything is back as it was" in sentence, sentence
    assert kernel_threads("kswapd", "kcompactd", "kthreadd") == isolated
    revert()
    assert kernel_threads("kswapd", "kcompactd", "kthreadd") == before


def check_random_walk() -> None:
    """Three claims come and go at random: the partition is always their union, and nothing is left at the end."""
    chance = random.Random(20)
    wants = {"a": {4}, "b": {5, 6}, "c": {7}}
    before = snapshot()
    active: set = set()
    for _round in range(14):
        name = chance.choice(sorted(wants))
        if name in active:
            revert(name)
            active.remove(name)
        else:
            isolate(name, ",".join(map(str, wants[name])))
            active.add(name)
        union = set().union(*(wants[claim] for claim in active))
        if union:
            assert_isolated(union)
            assert not engine().inspect()[1].changes
        else:
            unchanged(before)
    if active:
        revert()
    unchanged(before)


def check_claim_that_changes() -> None:
    """A claim with other CPUs than before gives back those that it no longer wants."""
    before = snapshot()
    isolate("host", "4-5")
    isolate("host", "6-7")
    assert_isolated({6, 7})
    assert cpus(read(f"{CGROUP}/cpuset.cpus.effective")) == {0, 1, 2, 3, 4, 5}
    isolate("host", "5-7", strategy="slices")
    assert_isolated({5, 6, 7}, "slices")
    assert read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") in ("member", "<errno 2>")
    revert()
    unchanged(before)


def check_partition_type() -> None:
    """More than one emulator CPU makes the partition `root`, in which the kernel spreads threads."""
    isolate(vm="4-6", emulator_cpus="7")
    assert read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") == "isolated"
    isolate(vm="6-7", emulator_cpus="4,5")
    assert read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") == "root"
    assert cpus(read(f"{CGROUP}/machine.slice/cpuset.cpus")) == {4, 5, 6, 7}


def check_single_modules() -> None:
    """cpuset, move_tasks and cpu_governor alone: `prior` leads back exactly, a claim is journalled."""
    before = snapshot()
    made = engine().once(step("cpuset", path="/held.slice", cpus="2-3", mems="N0"))
    assert (read(f"{CGROUP}/held.slice/cpuset.cpus"), read(f"{CGROUP}/held.slice/cpuset.mems")) == ("2-3", "0")
    masked = engine().once(step("cpuset", path="held.slice", cpus="3", operation="mask"))
    assert read(f"{CGROUP}/held.slice/cpuset.cpus") == "2"
    engine().restore_prior(masked.prior)
    assert read(f"{CGROUP}/held.slice/cpuset.cpus") == "2-3"
    engine().restore_prior(made.prior)
    unchanged(before, "after cpuset")

    pid = process("1")
    session, home = read(f"/proc/{pid}/cgroup")[3:], "/from.slice"
    source = engine().once(step("cpuset", path=home))
    write(f"{CGROUP}{home}/cgroup.procs", str(pid))
    engine().extend("tasks", step("cpuset", path="/held.slice", cpus="2-3"))
    moved = engine().extend("tasks", step("move_tasks", source=home, target="/held.slice"))
    assert moved.changed and read(f"/proc/{pid}/cgroup") == "0::/held.slice"
    assert not engine().extend("tasks", step("move_tasks", source=home, target="/held.slice")).changed
    revert("tasks")
    assert read(f"/proc/{pid}/cgroup")[3:] == home
    write(f"{CGROUP}{session}/cgroup.procs", str(pid))
    engine().restore_prior(source.prior)
    unchanged(before, "after move_tasks")

    governed = engine().once(step("cpu_governor", governor="powersave", cpus="C4-5"))
    assert read("/sys/devices/system/cpu/cpufreq/policy4/scaling_governor") == "powersave"
    engine().restore_prior(governed.prior)
    dropped = engine().once(step("drop_caches", what="slab_objects", sync=False)).actions["drop_caches"]
    assert dropped["freed_bytes"] >= 0
    blocks = engine().once(step("compact_memory", nodes=["1"])).actions["compact_memory"]["free_huge_blocks"]
    assert [node["node"] for node in blocks] == [1]
    unchanged(before, "after cpu_governor")


def check_job_twice_is_one_claim() -> None:
    """Isolating again keeps the first baseline."""
    before = snapshot()
    for _time in range(2):
        engine().apply("host", job())
    revert()
    unchanged(before)
