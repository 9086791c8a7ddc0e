# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual machines without libvirt: QEMU by hand, as docs/qemu-by-hand.md has it, and Proxmox VE, on a model of it."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_playbooks import ROOT, kernel, play

if TYPE_CHECKING:
    from conftest import VirtualHost

OURS = "find /etc /usr/local /var/lib/vz -name '*vfio-isolation*' 2> /dev/null"
CPUS = "/sys/fs/cgroup/cpuset.cpus.effective"
SLICE = "/sys/fs/cgroup/vfio.slice"
# Nested KVM locks up an emulated host now and then.
DOCUMENT = (ROOT / "docs/qemu-by-hand.md").read_text().replace("-accel kvm", "-accel tcg")
EXAMPLES = dict(re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT, re.M | re.S))
SNAPSHOT = "cd /opt/isolation && python3 -c 'import json; from checks.ground import *; print(json.dumps(snapshot()))'"
DIFFERENCES = (
    "cd /opt/isolation && python3 -c"
    " 'import json, sys; from checks.ground import *; print(differences(json.load(sys.stdin), snapshot()))'"
)
STATE = "systemctl is-active vfio-isolation@win11"
TASKS = "/proc/$(systemctl show -p MainPID --value win11)/task/*"


@pytest.fixture(autouse=True)
def _given_back(libvirt_host: VirtualHost) -> Iterator[None]:
    """irqbalance is off; whatever a test leaves is taken away."""
    libvirt_host.run("systemctl stop irqbalance")
    yield
    libvirt_host.run(
        "systemctl stop win11; systemctl reset-failed; rm -f /etc/systemd/system/win11.service; systemctl daemon-reload"
    )
    play(libvirt_host, "playbooks/revert.yml")


def until(host: VirtualHost, command: str, expected: str, seconds: float = 60) -> None:
    """Wait until a command prints this."""
    deadline = time.monotonic() + seconds
    while (printed := host.run(command).stdout.strip()) != expected:
        assert time.monotonic() < deadline, f"{command}: {printed}"


def differs(host: VirtualHost, before: str) -> str:
    """What differs from a snapshot."""
    return host.run(DIFFERENCES, given=before.encode()).stdout.strip()


def test_the_example_of_qemu_by_hand(libvirt_host: VirtualHost, tmp_path: Path) -> None:
    """The claim comes with the virtual machine and goes with it; it is not there at boot, and a revert stops no VM."""
    host = libvirt_host
    host.run("systemctl stop vfio.slice")
    before = host.run(SNAPSHOT).stdout
    playbook = tmp_path / "on_demand.yml"
    playbook.write_text(EXAMPLES["yaml"])
    checked = play(host, str(playbook), "--check", "--diff")
    assert checked.returncode == 0 and "changed=1" in checked.stdout and host.run(OURS).stdout == "", checked.stdout
    done = play(host, str(playbook))
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout
    assert host.run(STATE).stdout.strip() == "inactive" and kernel(host, CPUS) == "0-7"
    assert host.run("systemctl is-enabled vfio-isolation@win11").stdout.strip() == "disabled"
    again = play(host, str(playbook))
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout

    started = host.run(EXAMPLES["console"])
    assert started.returncode == 0, started.stdout
    assert kernel(host, CPUS) == "0-3" and kernel(host, f"{SLICE}/cpuset.cpus.partition") == "root"
    until(host, f"cat {TASKS}/comm | grep -c TCG", "4")
    assert host.run(f"for task in {TASKS}; do taskset -cp ${{task##*/}}; done | grep -vc 4-7").stdout.strip() == "0"
    fewer = play(host, str(playbook), "-e", "isolate_vm_cpus=5-7")
    assert fewer.returncode == 0 and kernel(host, CPUS) == "0-4", fewer.stdout
    host.run("kill -9 $(systemctl show -p MainPID --value win11)")
    until(host, STATE, "inactive")
    assert kernel(host, CPUS) == "0-7"

    host.run("cat > /etc/systemd/system/win11.service; systemctl daemon-reload", given=EXAMPLES["ini"].encode())
    started = host.run("systemctl start win11")
    assert started.returncode == 0 and kernel(host, CPUS) == "0-4", started.stdout
    qemu = host.run("systemctl show -p MainPID --value win11").stdout
    reverted = play(host, "playbooks/revert.yml")
    assert reverted.returncode == 0 and kernel(host, CPUS) == "0-7" and host.run(OURS).stdout == "", reverted.stdout
    assert host.run("systemctl is-active win11").stdout.strip() == "active"
    assert host.run("systemctl show -p MainPID --value win11").stdout == qemu
    assert host.run(STATE).stdout.strip() == "inactive"  # if it stayed active, the next VM would start without it
    host.run("systemctl stop win11")
    assert host.run("systemctl start win11").returncode != 0  # there is no unit any more

    # From boot to on demand: nobody requires it, so the claim goes.
    at_boot = play(host, str(playbook), "-e", "isolate_persist=true")
    assert at_boot.returncode == 0 and kernel(host, CPUS) == "0-3", at_boot.stdout
    on_demand = play(host, str(playbook))
    assert on_demand.returncode == 0 and kernel(host, CPUS) == "0-7", on_demand.stdout
    unknown = play(host, str(playbook), "-e", "isolate_cgroup=auto")
    assert unknown.returncode != 0 and "persist: the cgroup auto is where virtual machines run" in unknown.stdout
    # What cannot be isolated does not start, and is not installed.
    wrong = play(host, str(playbook), "-e", "isolate_vm_cpus=4-99")
    assert wrong.returncode != 0 and "99" in wrong.stdout, wrong.stdout
    host.run("echo nonsense > /etc/vfio-isolation/claims/win11.json")
    failed = host.run("systemctl start win11; systemctl status vfio-isolation@win11 | cat")
    assert "win11.json does not contain a claim" in failed.stdout, failed.stdout
    assert host.run("systemctl is-active win11").stdout.strip() != "active" and kernel(host, CPUS) == "0-7"
    play(host, "playbooks/revert.yml")
    host.run("systemctl stop win11 vfio.slice; rm /etc/systemd/system/win11.service; systemctl daemon-reload")
    assert host.run(OURS).stdout == "" and differs(host, before) == "[]"


def test_the_role_proxmox_hook(libvirt_host: VirtualHost, tmp_path: Path) -> None:
    """Check mode changes nothing, a second run neither; a VM is isolated; absent leaves nothing."""
    host = libvirt_host
    none = play(host, "playbooks/proxmox_hook.yml")
    assert none.returncode != 0 and "this is not a Proxmox VE host: it has no /usr/sbin/qm" in none.stdout, none.stdout
    model = "cd /opt/isolation && python3 -c 'from checks.proxmox import *; from checks import proxmox; {}'"
    assert host.run(model.format('proxmox._proxmox(vm100="affinity: 4-5\\n", vm101="cores: 1\\n")')).returncode == 0
    before = host.run(SNAPSHOT).stdout
    variables = tmp_path / "variables.json"
    variables.write_text(json.dumps({"proxmox_hook_vms": {"100": {"isolate_irqs": False}, "101": {}}}))
    hook = ("playbooks/proxmox_hook.yml", "-e", f"@{variables}")
    try:
        checked = play(host, *hook, "--check", "--diff")
        assert checked.returncode == 0 and "changed=1" in checked.stdout, checked.stdout
        assert "+hookscript: local:snippets/vfio-isolation" in checked.stdout, checked.stdout
        assert "VM 101 has no affinity, so isolating the host for it will fail" in " ".join(checked.stdout.split()), (
            checked.stdout
        )
        assert host.run(OURS).stdout == "" and "hookscript" not in kernel(host, "/etc/pve/qemu-server/100.conf")
        done = play(host, *hook)
        assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout
        again = play(host, "vfio.isolation.proxmox_hook", "-e", f"@{variables}")
        assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout
        started = host.run("qm start 100")
        assert started.returncode == 0 and kernel(host, CPUS) == "0-3,6-7", started.stdout
        steps = json.loads(kernel(host, "/run/vfio-isolation/journal.json"))["claims"]["100"]["steps"]
        assert "irq_affinity" not in [step["name"] for step in steps]
        absent = play(host, hook[0], "-e", "proxmox_hook_state=absent")
        assert absent.returncode == 0 and "changed=1" in absent.stdout, absent.stdout
        assert kernel(host, CPUS) == "0-7" and "hookscript" not in kernel(host, "/etc/pve/qemu-server/100.conf")
        assert host.run("systemctl list-units --plain --no-legend 'vfio-isolation-vm-*'").stdout == ""
        nothing = play(host, hook[0], "-e", "proxmox_hook_state=absent")
        assert nothing.returncode == 0 and "changed=0" in nothing.stdout, nothing.stdout
        assert host.run("qm stop 100").returncode == 0
        assert host.run(OURS).stdout == "" and differs(host, before) == "[]"
    finally:
        host.run(model.format("proxmox._take_away()"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"100": {"isolate_claim": "x"}}, "vms: 100: isolate_claim"),
        ({"abc": {}}, "vms: 'abc' is not the ID of a Proxmox VE virtual machine, a number from 100 to 999999999"),
        ({"100": {"timeout": 0}}, "vms: 100: timeout is 0; expected 1 to 3600 seconds"),
    ],
)
def test_bad_variables_of_proxmox_hook(libvirt_host: VirtualHost, given: dict[str, object], words: str) -> None:
    """One sentence each, and nothing is installed."""
    libvirt_host.run("touch /usr/sbin/qm")
    try:
        done = play(libvirt_host, "playbooks/proxmox_hook.yml", "-e", json.dumps({"proxmox_hook_vms": given}))
    finally:
        libvirt_host.run("rm /usr/sbin/qm")
    assert done.returncode != 0 and words in " ".join(done.stdout.replace("\\n", " ").split()), done.stdout
    assert libvirt_host.run(OURS).stdout == ""
