# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role libvirt_hook, pinning out of topology, and claims that come back at boot: with a real libvirt."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_playbooks import kernel, play

if TYPE_CHECKING:
    from conftest import VirtualHost

OURS = "find /etc /usr/local -name '*vfio-isolation*'"
CPUS = "/sys/fs/cgroup/cpuset.cpus.effective"
JOURNAL = "/run/vfio-isolation/journal.json"
DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>{elements}
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
PINNED = "<vcpu>2</vcpu><cputune><vcpupin vcpu='0' cpuset='4'/><vcpupin vcpu='1' cpuset='5'/></cputune>"


@pytest.fixture(autouse=True)
def _given_back(libvirt_host: VirtualHost) -> Iterator[None]:
    """irqbalance is off; whatever a test leaves is taken away."""
    libvirt_host.run("systemctl stop irqbalance")
    yield
    libvirt_host.run("for name in $(virsh list --all --name); do virsh destroy $name; virsh undefine $name; done")
    play(libvirt_host, "playbooks/libvirt_hook.yml", "-e", "libvirt_hook_state=absent")
    play(libvirt_host, "playbooks/revert.yml")


def define(host: VirtualHost, name: str, elements: str) -> None:
    """Define a domain."""
    done = host.run("virsh define /dev/stdin", given=DOMAIN.format(name=name, elements=elements).encode())
    assert done.returncode == 0, done.stdout


def test_the_role_installs_the_hook_and_removes_it(libvirt_host: VirtualHost, tmp_path: Path) -> None:
    """Check mode installs nothing; a second run changes nothing; a VM is isolated; absent leaves nothing of all."""
    assert libvirt_host.run(OURS).stdout == ""
    before = kernel(libvirt_host, CPUS)
    variables = tmp_path / "variables.json"
    variables.write_text(json.dumps({"libvirt_hook_domains": {"win11": {"isolate_irqs": False}}}))
    hook = ("playbooks/libvirt_hook.yml", "-e", f"@{variables}")
    checked = play(libvirt_host, *hook, "--check", "--diff")
    assert checked.returncode == 0 and "changed=1" in checked.stdout, checked.stdout
    assert '+  "isolate_irqs": false' in checked.stdout, checked.stdout
    assert libvirt_host.run(OURS).stdout == ""
    done = play(libvirt_host, *hook)
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout
    assert "/etc/libvirt/hooks/qemu.d/vfio-isolation" in libvirt_host.run(OURS).stdout.split()
    again = play(libvirt_host, "vfio.isolation.libvirt_hook", "-e", f"@{variables}")
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout

    define(libvirt_host, "win11", PINNED)
    started = libvirt_host.run("virsh start win11")
    assert started.returncode == 0, started.stdout
    assert kernel(libvirt_host, CPUS) == "0-3,6-7"
    steps = json.loads(kernel(libvirt_host, JOURNAL))["claims"]["win11"]["steps"]
    assert "irq_affinity" not in [step["name"] for step in steps]
    audit = play(libvirt_host, "playbooks/audit.yml")
    assert audit.returncode == 0 and "vm_cpus: 4-5" in audit.stdout, audit.stdout

    absent = play(libvirt_host, "playbooks/libvirt_hook.yml", "-e", "libvirt_hook_state=absent")
    assert absent.returncode == 0 and "changed=1" in absent.stdout, absent.stdout
    assert libvirt_host.run(OURS).stdout == "" and kernel(libvirt_host, CPUS) == before
    assert libvirt_host.run("virsh domstate win11").stdout.strip() == "running"
    nothing = play(libvirt_host, "playbooks/libvirt_hook.yml", "-e", "libvirt_hook_state=absent")
    assert nothing.returncode == 0 and "changed=0" in nothing.stdout, nothing.stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"libvirt_hook_domains": {"win11": {"isolate_claim": "x"}}}, "domains: win11: isolate_claim"),
        (
            {"libvirt_hook_domains": {"win11": {"isolate_strategy": "fast"}}},
            "domains: win11: value of isolate_strategy",
        ),
        ({"libvirt_hook_domains": {"a/b": {}}}, "domains: 'a/b' is not the name of a libvirt domain"),
        ({"libvirt_hook_default": {"timeout": 0}}, "default: timeout is 0; expected 1 to 3600 seconds"),
        ({"libvirt_hook_python": "/no/python"}, "python: /no/python is not Python 3.8 or newer on this host"),
    ],
)
def test_bad_variables_install_nothing(libvirt_host: VirtualHost, given: dict[str, object], words: str) -> None:
    """One sentence each."""
    done = play(libvirt_host, "playbooks/libvirt_hook.yml", "-e", json.dumps(given))
    assert done.returncode != 0 and words in " ".join(done.stdout.replace("\\n", " ").split()), done.stdout
    assert libvirt_host.run(OURS).stdout == ""


def test_libvirt_takes_the_pinning(libvirt_host: VirtualHost, tmp_path: Path) -> None:
    """What the filter cputune makes of the host's own topology is what the threads of a domain then have."""
    playbook = tmp_path / "pin.yml"
    pinned = "topology | vfio.isolation.cputune(vcpus=2, cpus='node:1', emulator_cpus='2-3', iothreads=1)"
    playbook.write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - vfio.isolation.isolation_facts:\n"
        "    - ansible.builtin.copy:\n        dest: /run/pinned.xml\n        mode: '0600'\n"
        f'        content: "{{{{ ansible_facts.vfio_isolation.{pinned} }}}}"\n'
    )
    done = play(libvirt_host, str(playbook))
    assert done.returncode == 0, done.stdout
    # Emulated, a domain cannot have its host's CPU model.
    elements = kernel(libvirt_host, "/run/pinned.xml").replace('mode="host-passthrough"', "")
    define(libvirt_host, "pinned", elements)
    printed = libvirt_host.run(
        "virsh vcpupin pinned; virsh emulatorpin pinned; virsh iothreadinfo pinned; virsh numatune pinned"
    )
    pins = [line.split() for line in printed.stdout.splitlines() if line.split()[:1] in (["0"], ["*:"], ["1"])]
    assert pins == [["0", "4"], ["1", "5"], ["*:", "2-3"], ["1", "2-3"]], printed.stdout
    assert "numa_nodeset : 1" in " ".join(printed.stdout.split()), printed.stdout
    started = libvirt_host.run("virsh start pinned")
    assert started.returncode == 0, started.stdout
    threads = libvirt_host.run(
        "for task in /proc/$(cat /run/libvirt/qemu/pinned.pid)/task/*; do"
        " echo $(cat $task/comm): $(grep Cpus_allowed_list $task/status); done"
    ).stdout
    for line in (
        "CPU 0/TCG: Cpus_allowed_list: 4",
        "CPU 1/TCG: Cpus_allowed_list: 5",
        "iothread1: Cpus_allowed_list: 2-3",
    ):
        assert line in " ".join(threads.split()).replace("IO ", ""), threads


def test_a_domain_is_named_in_an_expression(libvirt_host: VirtualHost) -> None:
    """vm:NAME, of a domain that is defined and of one that only runs."""
    define(libvirt_host, "win11", PINNED)
    done = play(libvirt_host, "playbooks/isolate.yml", "-e", "isolate_vm_cpus=vm:win11,7")
    assert done.returncode == 0 and kernel(libvirt_host, CPUS) == "0-3,6", done.stdout
    play(libvirt_host, "playbooks/revert.yml")
    none = play(libvirt_host, "playbooks/isolate.yml", "-e", "isolate_vm_cpus=vm:win11:emulator")
    assert none.returncode != 0 and "<emulatorpin" in none.stdout, none.stdout
    fleeting = DOMAIN.format(name="fleeting", elements=PINNED.replace("'4'", "'6'")).encode()
    assert libvirt_host.run("virsh create /dev/stdin", given=fleeting).returncode == 0
    done = play(
        libvirt_host, "playbooks/isolate.yml", "-e", "isolate_vm_cpus=vm:fleeting", "-e", "isolate_strategy=slices"
    )
    assert done.returncode == 0 and kernel(libvirt_host, "/sys/fs/cgroup/system.slice/cpuset.cpus") == "0-4,7", (
        done.stdout
    )


def test_a_claim_that_persists_comes_back_at_boot(libvirt_host: VirtualHost) -> None:
    """Isolated again after a reboot, with a fresh journal; stopping the unit gives it back, reverting is for good."""
    before = kernel(libvirt_host, CPUS)
    persist = ("playbooks/isolate.yml", "-e", "isolate_vm_cpus=4-7", "-e", "isolate_persist=true")
    checked = play(libvirt_host, *persist, "--check")
    assert checked.returncode == 0 and "changed=1" in checked.stdout and libvirt_host.run(OURS).stdout == "", (
        checked.stdout
    )
    done = play(libvirt_host, *persist)
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout
    again = play(libvirt_host, *persist)
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout
    boot = reboot(libvirt_host)
    assert kernel(libvirt_host, CPUS) == "0-3"
    assert kernel(libvirt_host, "/sys/fs/cgroup/machine.slice/cpuset.cpus.partition") == "isolated"
    journal = json.loads(kernel(libvirt_host, JOURNAL))
    assert journal["boot_id"] == boot and list(journal["claims"]) == ["host"]
    assert libvirt_host.run("systemctl is-active vfio-isolation@host").stdout.strip() == "active"
    libvirt_host.run("systemctl stop irqbalance")
    again = play(libvirt_host, *persist)
    assert again.returncode == 0, again.stdout
    audit = play(libvirt_host, "playbooks/audit.yml")
    assert audit.returncode == 0, audit.stdout

    assert libvirt_host.run("systemctl stop vfio-isolation@host").returncode == 0
    assert kernel(libvirt_host, CPUS) == before and libvirt_host.run(f"test -e {JOURNAL}").returncode != 0
    assert libvirt_host.run("systemctl start vfio-isolation@host").returncode == 0
    assert kernel(libvirt_host, CPUS) == "0-3"
    no_more = play(libvirt_host, *persist[:-1], "isolate_persist=false")
    assert no_more.returncode == 0 and "changed=1" in no_more.stdout, no_more.stdout
    assert kernel(libvirt_host, CPUS) == "0-3" and libvirt_host.run(OURS).stdout == ""
    assert play(libvirt_host, *persist).returncode == 0
    reverted = play(libvirt_host, "playbooks/revert.yml")
    assert reverted.returncode == 0 and "changed=1" in reverted.stdout, reverted.stdout
    assert kernel(libvirt_host, CPUS) == before and libvirt_host.run(OURS).stdout == ""
    assert libvirt_host.run("systemctl is-enabled vfio-isolation@host").stdout.strip() != "enabled"


def reboot(host: VirtualHost, seconds: float = 240) -> str:
    """Reboot a host and wait until it is up. Returns its boot id."""
    boot_id = "/proc/sys/kernel/random/boot_id"
    before = kernel(host, boot_id)
    deadline = time.monotonic() + seconds
    host.run("systemctl reboot")
    while time.monotonic() < deadline:
        try:
            now = host.run(f"systemctl is-system-running --wait > /dev/null; cat {boot_id}", timeout=20).stdout.strip()
        except subprocess.TimeoutExpired:
            continue
        if len(now) == len(before) and now != before:
            return now
        time.sleep(1)
    raise AssertionError(f"the host was not up again after {seconds} s")
