# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The example playbooks: what they announce, what they do, that they do it once, and that they leave no trace."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_playbooks import play

if TYPE_CHECKING:
    from conftest import VirtualHost

ROOT = Path(__file__).resolve().parents[2]
V1 = "/sys/fs/cgroup/cpuset"
GOVERNORS = "cat /sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
# The CPUs of interrupts that nothing handles, and so nothing else moves.
MOVED = "cat /proc/irq/{1,3,5,6,7,10,11,12,13,14,15}/smp_affinity_list | sort -u"


@dataclass(frozen=True)
class Example:
    """A playbook, the variables that make it fit the virtual host, what is announced, and what is so afterwards."""

    name: str
    host: str
    variables: Mapping[str, str]
    announced: str
    # Command -> what it prints, its lines joined with spaces: while isolated. Before and after it prints otherwise.
    kernel: Mapping[str, str] = field(default_factory=dict)


EXAMPLES = (
    Example(
        "ryzen_5950x",
        "host",
        {"host_cpus": "C0-3"},
        "cgroup.cpus:/system.slice 0-3",
        {
            "cat /sys/fs/cgroup/system.slice/cpuset.cpus": "0-3",
            "cat /sys/fs/cgroup/user.slice/cpuset.cpus": "0-3",
        },
    ),
    Example(
        "intel_6_cores",
        "v1_host",
        {"host_cpus": "C0-1,4-5"},
        "cgroup.cpus:/host.slice 0-1,4-5",
        {
            f"cat {V1}/host.slice/cpuset.cpus": "0-1,4-5",
            "grep cpuset /proc/1/cgroup | cut -d: -f3": "/host.slice",
            "taskset -pc 1 | sed 's/.*: //'": "0,1,4,5",
        },
    ),
    Example(
        "threadripper_numa",
        "v1_host",
        {},
        "cgroup.memory_migrate:/host.slice 1",
        {
            f"cat {V1}/host.slice/cpuset.cpus": "0-3",
            f"cat {V1}/host.slice/cpuset.mems": "0",
            f"cat {V1}/host.slice/cpuset.memory_migrate": "1",
            "grep cpuset /proc/1/cgroup | cut -d: -f3": "/host.slice",
        },
    ),
    Example(
        "undo",
        "host",
        {},
        "cgroup.exists:/test.slice present",
        {"cat /sys/fs/cgroup/test.slice/cpuset.cpus": "1-4"},
    ),
    Example(
        "irq_affinity",
        "host",
        {"vm_cpus": "C2-5"},
        "irq.default: 0-1,6-7",
        {MOVED: "0-1,6-7", "cat /proc/irq/default_smp_affinity": "c3"},
    ),
    Example(
        "cpu_governor",
        "host",
        {"vm_cpus": "C2-5"},
        "cpufreq.governor:policy2 performance",
        {GOVERNORS: "schedutil performance performance schedutil"},
    ),
    Example(
        "libvirt_hook",
        "host",
        {"host_cpus": "C0-3", "vm_cpus": "C4-6", "emulator_cpus": "C7"},
        "cgroup.cpus:/system.slice 0-3",
        {
            "cat /sys/fs/cgroup/system.slice/cpuset.cpus": "0-3",
            "cat /sys/fs/cgroup/user.slice/cpuset.cpus": "0-3",
            "taskset -pc 2 | sed 's/.*: //'": "0-3",
            MOVED: "0-3,7",
            GOVERNORS: "schedutil schedutil performance performance",
        },
    ),
)


NAMES = [f"{example.name}{'-v1' if example.host == 'v1_host' else ''}" for example in EXAMPLES]


def test_all_examples() -> None:
    """Every example is run."""
    there = sorted(path.stem for path in (ROOT / "playbooks" / "examples").glob("*.yml"))
    assert there == sorted(example.name for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_example(request: pytest.FixtureRequest, example: Example) -> None:
    """Check mode only announces it; then it is so; a second run changes nothing; the way back is exact."""
    host: VirtualHost = request.getfixturevalue(example.host)
    host.run("systemctl stop irqbalance")
    path = f"playbooks/examples/{example.name}.yml"
    variables = ("-e", json.dumps(dict(example.variables)))
    before = _snapshot(host)
    read = _read(host, example)
    assert all(read[command] != wanted for command, wanted in example.kernel.items()), read
    try:
        checked = play(host, path, *variables, "--check", "--diff")
        assert checked.returncode == 0 and "changed=1" in checked.stdout, checked.stdout
        assert f"+{example.announced}" in checked.stdout, checked.stdout
        assert _left(host, before) == ""

        done = play(host, path, *variables)
        assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout
        assert _read(host, example) == dict(example.kernel)

        again = play(host, f"vfio.isolation.examples.{example.name}", *variables)
        assert again.returncode == 0 and "ok=1" in again.stdout and "changed=0" in again.stdout, again.stdout
    finally:
        back = play(host, path, "--tags", "restore")
    assert back.returncode == 0 and "changed=1" in back.stdout, back.stdout
    assert _left(host, before) == ""


def _read(host: VirtualHost, example: Example) -> dict[str, str]:
    return {command: " ".join(host.run(f"bash -c {shlex.quote(command)}").stdout.split()) for command in example.kernel}


def _snapshot(host: VirtualHost) -> str:
    ask = "import json; from checks.ground import snapshot; print(json.dumps(snapshot()))"
    return host.run(f"cd /opt/isolation && python3 -c '{ask}'").stdout


def _left(host: VirtualHost, before: str) -> str:
    """What is not as in a snapshot."""
    ask = "import json; from checks.ground import differences, snapshot; "
    ask += 'print(*differences(json.load(open(0)), snapshot()), sep="\\n")'
    return host.run(f"cd /opt/isolation && python3 -c '{ask}'", given=before.encode()).stdout.strip()
