# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host whose process 1 is not systemd, though systemctl is there: OpenRC, with a cgroup for each service."""

from __future__ import annotations

import json
import os

from .domains import install, xml
from .ground import (
    CGROUP,
    HOST,
    JOURNAL,
    affinity,
    assert_isolated,
    engine,
    isolate,
    job,
    killed_after,
    process,
    read,
    revert,
    snapshot,
    strategies,
    unchanged,
)
from .hook import call


def check_process_1() -> None:
    """The host is what these checks are about."""
    assert read("/proc/1/comm") == "init" and os.path.exists("/usr/bin/systemctl")
    assert not os.path.exists("/run/systemd/system") and os.path.isdir(f"{CGROUP}/openrc.ssh")


def check_isolate_and_revert() -> None:
    """Each strategy isolates, says it before, writes nothing twice, and leaves no byte; affinities as everywhere."""
    bound = [process(cpu_list) for cpu_list in ("5", "3,5", "1,2")]
    for strategy in strategies():
        before = snapshot()
        announced = engine().apply("host", job(strategy=strategy), check=True)
        unchanged(before, "after check mode")
        outcome = isolate(strategy=strategy)
        assert outcome.notes["strategy"] == strategy and outcome.changes == announced.changes, outcome
        assert_isolated(strategy=strategy)
        assert [affinity(pid) for pid in bound] == ["0-3", "3", "1-2"]
        assert os.sched_getaffinity(process()) <= HOST
        assert engine().inspect()[1].changes == []
        assert not isolate(strategy=strategy).changed
        revert()
        unchanged(before, f"after {strategy}")
        assert [affinity(pid) for pid in bound] == ["5", "3,5", "1-2"]
    assert not os.path.exists(JOURNAL)


def check_killed_after_every_third_write() -> None:
    """SIGKILL loses nothing here, too."""
    process("5")
    before = snapshot()
    for strategy in strategies():
        steps = job(strategy=strategy)
        writes = 1
        while killed_after(writes, lambda wrote, steps=steps: engine(wrote).apply("host", steps)):
            revert()
            unchanged(before, f"after a kill at write {writes} and a revert")
            writes += 3
        assert writes > 10, writes
        revert()
        unchanged(before)


def check_hook() -> None:
    """A hook makes its claim and gives it back without systemd and its journal."""
    install("one")
    before = snapshot()
    done = call("one", "prepare", "begin", xml("one", "4,5,6,7"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    assert_isolated(cgroup="machine")
    assert list(json.loads(read(JOURNAL))["claims"]) == ["one"]
    done = call("one", "release", "end", xml("one", "4,5,6,7"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    unchanged(before)
