# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Thread affinities survive, though the kernel destroys them."""

from __future__ import annotations

import os
import signal
import time

from module_utils._engine.model import Change

from .ground import (
    HOST,
    VM,
    affinity,
    assert_isolated,
    at_end,
    cpus,
    engine,
    isolate,
    kernel_is_at_least,
    kernel_threads,
    needs_partitions,
    process,
    read,
    revert,
    service,
    sh,
    snapshot,
    step,
    strategies,
    unchanged,
    write,
)

BOUND = ("kswapd", "kcompactd", "irq/", "writeback", "kthreadd")


def _services_keep_their_affinity(strategy: str) -> None:
    five, three_five, one_two = service("on-5", "5"), service("on-3-5", "3 5"), service("on-1-2", "1 2")
    inside = process("6")
    before, kernel = snapshot(), kernel_threads(*BOUND)
    assert kernel["kswapd0"] == kernel["kcompactd0"] == "0-3" and kernel["kswapd1"] == "4-7", kernel
    isolate(strategy=strategy)
    assert (affinity(five), affinity(three_five), affinity(one_two)) == ("0-3", "3", "1-2")
    assert affinity(inside) == "0-3"
    assert set(kernel_threads("kswapd", "kcompactd").values()) == {"0-3"}
    revert()
    assert (affinity(five), affinity(three_five), affinity(one_two)) == ("5", "3,5", "1-2")
    assert affinity(inside) == "6"
    assert kernel_threads(*BOUND) == kernel
    # systemd has the kernel create threads of this name while it reloads, also at the end of the revert.
    new = [pid for pid in os.listdir("/proc") if pid.isdigit() and read(f"/proc/{pid}/comm") == "psimon"]
    assert {affinity(int(pid)) for pid in new} <= {"0-7"}
    unchanged(before)


def check_survive_partition() -> None:
    """Services with CPUAffinity 5, `3 5` and `1 2`, kswapd, kcompactd and interrupt threads, under a partition."""
    needs_partitions()
    _services_keep_their_affinity("partition")


def check_survive_slices() -> None:
    """The same under slices, where the kernel threads are moved one by one."""
    _services_keep_their_affinity("slices")


def check_ended_and_reused() -> None:
    """A thread that ended, and a new one that has its number, are left alone."""
    ended, reused = process("5"), process("1")
    isolate()
    for pid in (ended, reused):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    again = 0
    for _attempt in range(50):
        write("/proc/sys/kernel/ns_last_pid", str(reused - 1))
        again = process("2")
        if again == reused:
            break
    assert again == reused, "no process got the number again"
    revert()
    assert affinity(again) == "2"


def check_owner_changes_its_mind() -> None:
    """What a thread's owner chose meanwhile stays, also for one that was born meanwhile."""
    chosen = process("5")
    isolate()
    new = process("1")
    os.sched_setaffinity(chosen, {2})
    assert not isolate().changed
    revert()
    assert affinity(chosen) == "2"
    assert affinity(new) == "1"


def check_many_claims_keep_affinities() -> None:
    """Affinities come back after two claims that came and went crosswise."""
    pinned = {cpu: process(str(cpu)) for cpu in (1, 5, 7)}
    isolate("first", "4-5")
    isolate("second", "6-7")
    assert_isolated()
    assert affinity(pinned[5]) == affinity(pinned[7]) == "0-3"
    revert("first")
    assert affinity(pinned[5]) == "5"
    assert os.sched_getaffinity(pinned[7]) == HOST | {4, 5}
    revert("second")
    assert {cpu: affinity(pid) for cpu, pid in pinned.items()} == {1: "1", 5: "5", 7: "7"}


def check_kernel_thread_that_strays() -> None:
    """A kernel thread that is bound to a VM's CPU meanwhile is drift, and the next run mends it.

    Under a partition the kernel refuses such an affinity.
    """
    isolate(strategy="slices")
    thread = next(int(pid) for pid in os.listdir("/proc") if pid.isdigit() and read(f"/proc/{pid}/comm") == "kswapd0")
    os.sched_setaffinity(thread, {5})
    time.sleep(0.1)
    _journal, drift = engine().inspect()
    assert [change.address.split(":")[1] for change in drift.changes] == [str(thread)], drift.changes
    isolate(strategy="slices")
    assert set(os.sched_getaffinity(thread)) <= HOST
    revert()
    at_end(lambda: os.sched_setaffinity(thread, HOST))


def _name_of(change: Change) -> str:
    return read(f"/proc/{change.address.split(':')[1]}/comm")


def check_kernel_thread_that_is_born_meanwhile() -> None:
    """A new thread of the kernel that gets all CPUs, whatever kthreadd has, is no drift, and the next run binds it.

    Only a thread that a run has bound can drift. Since Linux 6.2 a new one has what kthreadd is bound to, and since 7.0
    a partition keeps it off; after the revert it has all CPUs, as if it had begun then.
    """
    since = {"partition": (7, 0), "slices": (6, 2)}
    for strategy, kept_off in ((strategy, kernel_is_at_least(*since[strategy])) for strategy in strategies()):
        isolate(strategy=strategy)
        assert affinity(2) == "0-3"
        sh("modprobe scsi_debug")
        # udev may be reading the disk that comes with it.
        at_end(_unload)
        deadline = time.monotonic() + 20
        while not (new := kernel_threads("scsi_eh_6")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert new == {"scsi_eh_6": "0-3" if kept_off else "0-7"}
        found = engine().inspect()[1]
        others = [change for change in found.newcomers if _name_of(change) != "scsi_eh_6"]  # such as psimon
        ours = [change for change in found.newcomers if change not in others]
        assert found.changes == [] and [c[1:] for c in ours] == ([] if kept_off else [("0-7", "0-3")]), found
        bound = isolate(strategy=strategy)
        assert set(bound.changes) >= {*ours, *others}, (bound, found)
        assert kernel_threads("scsi_eh_6") == {"scsi_eh_6": "0-3"}
        if strategy == "slices" and not kept_off:  # under a partition the kernel refuses it
            os.sched_setaffinity(int(ours[0].address.split(":")[1]), HOST | VM)
            strayed = engine().inspect()[1]
            assert strayed.changes == ours, strayed
        revert()
        assert kernel_threads("scsi_eh_6") == {"scsi_eh_6": "0-7"}
        assert kernel_threads("scsi_eh_6") == {"scsi_eh_6": "0-7"}
        _unload()


def _unload() -> None:
    """The module is in use while udev looks at its disk."""
    sh("for attempt in $(seq 100); do ! modprobe -r scsi_debug 2>/dev/null || exit 0; sleep 0.2; done; exit 1")


def check_kernel_threads_under_a_partition() -> None:
    """Under a partition the kernel has moved its threads: kthread_affinity finds nothing to do, and holds on to it."""
    before = snapshot()
    isolate()
    outcome = engine().extend("host", step("kthread_affinity", cpus="4-7"))
    assert not outcome.changes, outcome.changes
    revert()
    movable = ("kthreadd", "kswapd", "kcompactd")
    threads = kernel_threads(*movable)
    outcome = engine().extend("vm", step("kthread_affinity", cpus="4-7"))
    assert outcome.changes
    assert all(cpus(there) <= HOST for there in kernel_threads(*movable).values()), kernel_threads(*movable)
    revert()
    assert kernel_threads(*movable) == threads
    unchanged(before)
