# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts where a file is missing, is read-only, or cannot be written: what there is works, or one sentence says why not.

Each in a mount namespace of its own: nothing of this host is hidden from anybody else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from .ground import JOURNAL, revert, snapshot, strategies, unchanged

RUN = (
    "import json, sys; from checks.ground import *\n"
    "try: print(json.dumps(isolate(strategy=sys.argv[1]).notes))\n"
    "except IsolationError as error: sys.exit(str(error))"
)


def _isolate(strategy: str, *before: str) -> subprocess.CompletedProcess[str]:
    """Run the job after these shell commands in a mount namespace."""
    script = "; ".join(["set -e", *before, 'exec "$@"'])
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", RUN, strategy]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _works_without(*before: str) -> None:
    for strategy in strategies():
        state = snapshot()
        done = _isolate(strategy, *before)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["strategy"] == strategy
        revert()
        unchanged(state, f"{strategy}, after {before}")


def _refused(*before: str) -> str:
    """The sentence; nothing is changed, and nothing is left of it."""
    state = snapshot()
    done = _isolate("auto", *before)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    print(done.stderr.strip()[:300])
    unchanged(state, f"after {before}")
    return done.stderr


def check_no_cpufreq() -> None:
    """A host without frequency scaling: no governor is set, all else is as usual."""
    _works_without("mount -t tmpfs none /sys/devices/system/cpu/cpufreq")


def check_no_numa() -> None:
    """A kernel without NUMA."""
    _works_without("mount -t tmpfs none /sys/devices/system/node")


def check_no_interrupts() -> None:
    """A kernel that shows no interrupts, and no default affinity for those that are requested later."""
    _works_without("mount -t tmpfs none /proc/irq")


def check_run_is_full() -> None:
    """The journal cannot be written: nothing is changed, and the sentence names the file and the reason."""
    sentence = _refused(
        "mkdir -p /run/vfio-isolation",
        "mount -t tmpfs -o size=4k none /run/vfio-isolation",
        "head -c 4096 /dev/zero > /run/vfio-isolation/full",
    )
    assert "/run/vfio-isolation" in sentence and "No space left" in sentence, sentence
    assert not os.path.exists(JOURNAL)


def check_read_only_cgroups() -> None:
    """As in a container: the sentence names the file, and nothing is changed."""
    sentence = _refused("mount -o remount,bind,ro /sys/fs/cgroup")
    assert "/sys/fs/cgroup" in sentence or "systemctl" in sentence, sentence
