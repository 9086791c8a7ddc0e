# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What isolation is, how it lasts, and that it goes without a trace."""

from __future__ import annotations

import glob
import os

from module_utils._engine.model import Change

from .ground import (
    CGROUP,
    HOST,
    VM,
    NotThere,
    assert_isolated,
    at_end,
    bind_newcomers,
    cpus,
    engine,
    isolate,
    job,
    kernel_is_at_least,
    managed,
    needs_partitions,
    read,
    refused,
    reload_and_apply,
    revert,
    service,
    sh,
    snapshot,
    step,
    strategies,
    unchanged,
    write,
)


def _lasts(strategy: str) -> None:
    """Still isolated after what systemd does in a day."""
    assert_isolated(strategy=strategy)
    sh("systemctl daemon-reload")
    assert_isolated(strategy=strategy)
    sh("systemctl set-property --runtime user.slice MemoryLow=1M")
    at_end(lambda: sh("rm -rf /run/systemd/system.control && systemctl daemon-reload"))
    assert_isolated(strategy=strategy)
    assert os.sched_getaffinity(service("born-later")) <= HOST
    assert_isolated(strategy=strategy)


def check_partition() -> None:
    """The partition keeps every cgroup, pid 1, kthreadd and movable interrupt off the CPUs, and lasts."""
    needs_partitions()
    outcome = isolate()
    assert outcome.notes["strategy"] == "partition", outcome.notes
    assert read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") == "isolated"
    on_vm = [p for p in glob.glob("/proc/irq/*/smp_affinity_list") if cpus(read(p)) & VM]
    assert on_vm and all(managed(path) for path in on_vm)
    for path in on_vm:
        assert outcome.skipped[f"irq.affinity:{path.split('/')[3]}"].startswith("managed by the kernel (")
    assert outcome.actions["drop_caches"]["freed_bytes"] >= 0
    assert [node["node"] for node in outcome.actions["compact_memory"]["free_huge_blocks"]] == [0, 1]
    _lasts("partition")


def check_slices() -> None:
    """The strategy slices does it too, also for a top-level slice of the user's own."""
    service("in-own-slice", "", "Slice=own.slice")
    at_end(lambda: sh("systemctl stop own.slice"))
    outcome = isolate(strategy="slices")
    assert outcome.notes["strategy"] == "slices"
    assert cpus(read(f"{CGROUP}/own.slice/cpuset.cpus")) == HOST
    _lasts("slices")


def check_second_run_writes_nothing() -> None:
    """The second run writes nothing at all: not to the kernel, not to systemd, not to the journal."""
    for strategy in strategies():
        isolate(strategy=strategy)
        bind_newcomers(strategy)
        written = []
        again = engine(written.append)
        outcome = again.apply("host", job(strategy=strategy))
        assert not written, written
        assert not outcome.changed and not outcome.changes and not outcome.actions
        revert()


def check_announces_exactly() -> None:
    """Check mode writes nothing, and announces exactly the addresses that the real run then changes."""
    for strategy in strategies():
        before = snapshot()
        written = []
        late = float(read("/proc/uptime").split()[0])
        announced = engine(written.append).apply("host", job(strategy=strategy), check=True)
        assert not written, written
        unchanged(before, "after check mode")
        real = engine().apply("host", job(strategy=strategy))
        told, done = (
            [c for c in changes if not _comes_or_goes(c, late)] for changes in (announced.changes, real.changes)
        )
        assert announced.changed and told == done, set(told) ^ set(done)
        written.clear()
        announced = engine(written.append).revert(check=True)
        assert not written, written
        real = revert()
        told, done = (
            [c for c in changes if not _comes_or_goes(c, late)] for changes in (announced.changes, real.changes)
        )
        assert told == done, set(told) ^ set(done)


def _comes_or_goes(change: Change, uptime: float) -> bool:
    """Whether it is about a thread that began later than so many seconds after boot, or has ended, such as psimon."""
    kind, *name = change.address.split(":")
    if kind != "task.affinity":
        return False
    return int(name[1]) >= uptime * os.sysconf("SC_CLK_TCK") or not os.path.exists(f"/proc/{name[0]}")


def _round_trip(what: str) -> None:
    for strategy in strategies():
        before = snapshot()
        isolate(strategy=strategy)
        assert_isolated(strategy=strategy)
        revert()
        unchanged(before, f"after {strategy}, {what}")
        assert not os.path.exists("/run/vfio-isolation/journal.json")


def check_revert_from_stock() -> None:
    """From a stock Debian, where the controller is off: byte for byte what it was."""
    assert "cpuset" not in read(f"{CGROUP}/cgroup.subtree_control")
    _round_trip("controller off")


def check_revert_governors() -> None:
    """A governor of its own for each policy comes back."""
    policies = sorted(glob.glob("/sys/devices/system/cpu/cpufreq/policy*"))
    before = {policy: read(f"{policy}/scaling_governor") for policy in policies}
    at_end(lambda: [write(f"{policy}/scaling_governor", governor) for policy, governor in before.items()])
    for number, governor in enumerate(("powersave", "conservative", "ondemand", "userspace")):
        write(f"{policies[number]}/scaling_governor", governor)
    _round_trip("a governor for each policy")


def _allowed_cpus_undone() -> None:
    """All CPUs first: since Linux 6.2, the threads of a list that goes may keep its CPUs (systemd issue 43846)."""
    units = ("user.slice", "system.slice", "init.scope")
    for cpu_list in ("0-7", ""):
        for unit in units:
            sh(f"systemctl set-property --runtime {unit} AllowedCPUs={cpu_list}")
        sh("rm -rf /run/systemd/system.control /etc/systemd/system.control /etc/systemd/system/system.slice.d")
        sh("rm -rf /run/systemd/transient/init.scope.d; systemctl daemon-reload")


def check_revert_allowed_cpus() -> None:
    """A unit that had AllowedCPUs keeps its own, from a runtime, a persistent or a hand-written drop-in."""
    at_end(_allowed_cpus_undone)
    sh("systemctl set-property --runtime user.slice AllowedCPUs=2-5")
    _round_trip("runtime AllowedCPUs")
    assert read(f"{CGROUP}/user.slice/cpuset.cpus") == "2-5"


def check_revert_persistent_allowed_cpus() -> None:
    """A persistent AllowedCPUs neither wins over the isolation at a daemon-reload, nor is it lost."""
    at_end(_allowed_cpus_undone)
    os.makedirs("/etc/systemd/system/system.slice.d", exist_ok=True)
    write("/etc/systemd/system/system.slice.d/mine.conf", "[Slice]\nAllowedCPUs=0-6\n")
    sh("systemctl set-property user.slice AllowedCPUs=2-5")
    reload_and_apply()
    assert read(f"{CGROUP}/system.slice/cpuset.cpus") == "0-6"
    for strategy in strategies():
        before = snapshot()
        isolate(strategy=strategy)
        sh("systemctl daemon-reload")
        assert_isolated(strategy=strategy)
        revert()
        unchanged(before, f"after {strategy}, with a persistent AllowedCPUs")
    assert read(f"{CGROUP}/user.slice/cpuset.cpus") == "2-5"


def check_allowed_cpus_to_come() -> None:
    """A list that systemd has read and not applied yet, or has yet to read, takes no CPU from the VMs."""
    at_end(_allowed_cpus_undone)
    before = snapshot()
    for strategy in strategies():
        os.makedirs("/etc/systemd/system/system.slice.d")
        write("/etc/systemd/system/system.slice.d/mine.conf", "[Slice]\nAllowedCPUs=0-6\n")
        if strategy == strategies()[0]:
            sh("systemctl daemon-reload")
        isolate(strategy=strategy)
        sh("systemctl daemon-reload; systemctl set-property --runtime user.slice CPUWeight=100")
        assert_isolated(strategy=strategy)
        revert()
        assert sh("systemctl show --value -p AllowedCPUs system.slice") == "0-6"
        _allowed_cpus_undone()
        unchanged(before, f"after {strategy}, beside a list to come")


def check_invalid_partition_recovers() -> None:
    """A partition that another's list made invalid is drift, and the next run makes it whole again.

    Since Linux 7.0 a list that others have leaves a partition alone.
    """
    needs_partitions()
    isolate()
    at_end(_allowed_cpus_undone)
    sh("systemctl set-property --runtime user.slice AllowedCPUs=3-5")
    spoiled = "invalid" in read(f"{CGROUP}/machine.slice/cpuset.cpus.partition")
    assert spoiled is not kernel_is_at_least(7, 0)
    _journal, drift = engine().inspect()
    assert ("cgroup.partition:/machine.slice" in [change.address for change in drift.changes]) is spoiled
    isolate()
    assert_isolated()


def check_cpu_that_is_exclusive_to_others() -> None:
    """A partition without all of its CPUs is none: since Linux 7.0 the kernel calls one valid that has the rest."""
    if not kernel_is_at_least(6, 7):
        raise NotThere(f"Linux {os.uname().release} has no cpuset.cpus.exclusive, which came with 6.7")
    sh("systemctl start own.slice && systemctl set-property --runtime own.slice AllowedCPUs=0-3")
    at_end(lambda: sh("systemctl stop own.slice && systemctl revert own.slice"))
    write(f"{CGROUP}/own.slice/cpuset.cpus", "0-5")
    write(f"{CGROUP}/own.slice/cpuset.cpus.exclusive", "5")
    before = snapshot()
    sentence = refused(lambda: engine().apply("vm", [step("reserve_cpus", cpus="4-7", strategy="partition")]))
    assert "invalid" in sentence and "Everything is back as it was" in sentence, sentence
    unchanged(before, "after rolling back")


def check_rolls_back_invalid_partition() -> None:
    """A partition that the kernel declares invalid fails with the kernel's reason, and all is as before."""
    needs_partitions()
    sh("systemctl start above.slice")
    at_end(lambda: sh("systemctl stop above.slice"))
    before = snapshot()
    below = "/above.slice/above-vm.slice"  # a partition's parent must be one, too
    sentence = refused(lambda: isolate(cgroup=below, strategy="partition"))
    assert "invalid" in sentence and "reserve_cpus" in sentence, sentence
    unchanged(before, "after rolling back")
    outcome = isolate(cgroup=below)
    assert outcome.notes["strategy"] == "slices" and "not of /above.slice" in outcome.notes["strategy_reason"]
    assert read(f"{CGROUP}/above.slice/cpuset.cpus.effective") == "0-7"
    assert_isolated(strategy="slices", cgroup="above.slice")
    revert()
    unchanged(before)
