# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that was booted with isolcpus=4-7 nohz_full=4-7 rcu_nocbs=4-7."""

from __future__ import annotations

import os
import time

from module_utils._facts import gather

from .ground import (
    CGROUP,
    JOURNAL,
    assert_isolated,
    engine,
    isolate,
    kernel_is_at_least,
    process,
    read,
    refused,
    revert,
    sh,
    snapshot,
    unchanged,
)

BUSY = ("sh", "-c", "while :; do :; done")


def check_isolcpus() -> None:
    """The facts know it; the partition of these CPUs is isolated and valid, if this kernel makes one. A thread without
    a CPU of its own stays on one, since the kernel spreads none: the warning says so, or the refusal."""
    assert "isolcpus=4-7" in read("/proc/cmdline"), read("/proc/cmdline")
    topology = gather(engine())[0]["topology"]
    assert [topology[name] for name in ("isolated_at_boot", "nohz_full", "rcu_nocbs")] == ["4-7"] * 3, topology
    before = snapshot()
    outcome = isolate()
    strategy = "slices" if kernel_is_at_least(6, 7) and not kernel_is_at_least(6, 18) else "partition"
    assert outcome.warnings == [] and outcome.notes["strategy"] == strategy, outcome.notes
    assert_isolated(strategy=strategy)
    if strategy == "partition":
        assert read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") == "isolated"
    assert not isolate().changed
    revert()
    unchanged(before)
    if kernel_is_at_least(6, 7):
        sentence = refused(lambda: isolate(strategy="partition", partition_type="root"))
        assert "of CPUs 4-7, isolated at boot (isolcpus=); use auto" in sentence, sentence
        unchanged(before)
        assert isolate(strategy="slices").warnings == []
    else:
        (warning,) = isolate(partition_type="root").warnings
        assert "Linux spreads no threads over CPUs 4-7, isolated at boot (isolcpus=): pin each to one CPU" in warning
    in_slice = ("systemd-run", "--quiet", "--scope", "--slice=machine.slice")
    busy = [process(argv=[*in_slice, *BUSY]) for _number in range(4)]
    while not all("/machine.slice/" in read(f"/proc/{child}/cgroup") for child in busy):
        time.sleep(0.2)
    for cpus in ({4}, {4, 5, 6, 7}):  # from one CPU, they may go to all
        for child in busy:
            os.sched_setaffinity(child, cpus)
        time.sleep(4)
    assert {_last_cpu(child) for child in busy} == {4}, [_last_cpu(child) for child in busy]
    for child in busy:
        os.kill(child, 9)
    time.sleep(1)
    revert()
    if kernel_is_at_least(6, 7):
        sh("systemctl stop machine.slice")  # systemd-run started it
    unchanged(before)
    assert not os.path.exists(JOURNAL)


def _last_cpu(child: int) -> int:
    """The CPU that a process ran on last, see proc(5)."""
    return int(read(f"/proc/{child}/stat").rpartition(")")[2].split()[36])
