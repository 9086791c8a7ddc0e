# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks, as users run them: by file and by name, one round trip, audit for a schedule."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import VirtualHost

ROOT = Path(__file__).resolve().parents[2]


# Runs a module of Ansible, and prints the files that it compiles.
COMPILED = """
import runpy, sys
def print_compiled(event, given):
    if event == "compile" and given[1]:
        print(given[1], file=sys.stderr)
sys.addaudithook(print_compiled)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def play(
    host: VirtualHost, playbook: str, *arguments: str, as_json: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a playbook against the virtual host, with environment variables."""
    environment = {**os.environ, **variables}
    if as_json:
        environment.update(ANSIBLE_STDOUT_CALLBACK="ansible.posix.json")
    return subprocess.run(
        ["ansible-playbook", "-i", host.inventory, playbook, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(autouse=True)
def _given_back(host: VirtualHost) -> Iterator[None]:
    """irqbalance is off, and whatever a test leaves is reverted."""
    host.run("systemctl stop irqbalance")
    yield
    host.run('cd /opt/isolation && echo \'{"do": "revert"}\' | python3 -m module_utils._engine.entries.runner')


def kernel(host: VirtualHost, path: str) -> str:
    """A kernel file of the host."""
    return host.run(f"cat {path}").stdout.strip()


def test_isolate_audit_revert(host: VirtualHost) -> None:
    """isolate.yml by file isolates, audit.yml shows it, a drift makes it fail, revert.yml by name gives all back."""
    snapshot = (
        "cd /opt/isolation && python3 -c 'import json; from checks.ground import *; print(json.dumps(snapshot()))'"
    )
    before = json.loads(host.run(snapshot).stdout)
    linux = tuple(map(int, kernel(host, "/proc/sys/kernel/osrelease").split(".")[:2]))
    strategy = "partition" if linux >= (6, 1) else "slices"

    checked = play(host, "playbooks/isolate.yml", "-e", "isolate_vm_cpus=4-7", "--check", "--diff")
    assert checked.returncode == 0, checked.stdout
    announced = sorted(line[1:] for line in checked.stdout.splitlines() if line.startswith(("-c", "-i", "-s", "-t")))
    first = "cgroup.partition:/machine.slice member" if strategy == "partition" else "cgroup.cpus:/init.scope"
    assert any(line.startswith(first) for line in announced), checked.stdout
    assert kernel(host, "/sys/fs/cgroup/cpuset.cpus.effective") == "0-7"

    done = play(host, "playbooks/isolate.yml", "-e", "isolate_vm_cpus=4-7")
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout
    if strategy == "partition":
        assert kernel(host, "/sys/fs/cgroup/machine.slice/cpuset.cpus.partition") == "isolated"
        assert kernel(host, "/sys/fs/cgroup/cpuset.cpus.effective") == "0-3"
    assert kernel(host, "/sys/fs/cgroup/system.slice/cpuset.cpus.effective") == "0-3"

    again = play(host, "vfio.isolation.isolate", "-e", "isolate_vm_cpus=4-7")
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout

    audit = play(host, "playbooks/audit.yml")
    assert audit.returncode == 0, audit.stdout
    for word in (f"strategy: {strategy}", "host_cpus: 0-3", "vm_cpus: 4-7", "drift: []"):
        assert word in audit.stdout, audit.stdout

    host.run("echo powersave > /sys/devices/system/cpu/cpufreq/policy6/scaling_governor")
    drifted = play(host, "vfio.isolation.audit")
    assert drifted.returncode != 0 and "cpufreq.governor:policy6" in drifted.stdout, drifted.stdout
    assert kernel(host, "/sys/devices/system/cpu/cpufreq/policy6/scaling_governor") == "powersave", "the audit wrote"
    play(host, "playbooks/isolate.yml", "-e", "isolate_vm_cpus=4-7")
    assert kernel(host, "/sys/devices/system/cpu/cpufreq/policy6/scaling_governor") == "performance"

    reverted = play(host, "vfio.isolation.revert")
    assert reverted.returncode == 0 and "changed=1" in reverted.stdout, reverted.stdout
    after = json.loads(host.run(snapshot).stdout)
    compare = "import json; from checks.ground import differences; print(*differences(*json.load(open(0))), sep='\\n')"
    left = host.run(f'cd /opt/isolation && python3 -c "{compare}"', given=json.dumps([before, after]).encode())
    assert left.stdout.strip() == "", left.stdout

    nothing = play(host, "playbooks/revert.yml")
    assert nothing.returncode == 0 and "changed=0" in nothing.stdout, nothing.stdout


def test_only_the_claim_that_is_named_to_a_playbook_counts(host: VirtualHost) -> None:
    """The isolate_claim of a host's variables neither narrows a revert nor an audit, whose result reaches machines."""
    for claim, cpus in (("win11", "4-5"), ("audio", "6")):
        play(host, "playbooks/isolate.yml", "-e", f"isolate_claim={claim} isolate_vm_cpus={cpus}")
    named = ("-e", "isolate_claim=other")
    audit = play(host, "playbooks/audit.yml", *named, ANSIBLE_SHOW_CUSTOM_STATS="true")
    assert audit.returncode == 0 and "missing_claims: []" in audit.stdout, audit.stdout
    statistics = " ".join(audit.stdout.partition("CUSTOM STATS")[2].split())
    assert "claims: - audio - win11" in statistics and "vm_cpus: 4-6" in statistics, audit.stdout

    one = play(host, "playbooks/revert.yml", "-e", "revert_claim=audio isolate_serial=1 isolate_hosts=vfio_hosts")
    assert one.returncode == 0 and "changed=1" in one.stdout, one.stdout
    assert kernel(host, "/sys/fs/cgroup/machine.slice/cpuset.cpus.effective") == "4-5"
    elsewhere = play(host, "playbooks/revert.yml", "-e", "isolate_hosts=nowhere")
    assert "no hosts matched" in elsewhere.stdout, elsewhere.stdout
    play(host, "playbooks/revert.yml", *named)
    assert kernel(host, "/sys/fs/cgroup/cpuset.cpus.effective") == "0-7"
    missing = play(host, "playbooks/audit.yml", "-e", "audit_claim=win11")
    assert missing.returncode == 2 and "- win11" in missing.stdout, missing.stdout
    assert "strategy: none, since nothing is claimed" in missing.stdout, missing.stdout


def test_a_new_kernel_thread_fails_only_a_strict_audit(host: VirtualHost) -> None:
    """The kernel gives it all CPUs. The audit counts it, until the next run binds it and says so."""
    vm_cpus = ("-e", "isolate_vm_cpus=4-7")
    play(host, "playbooks/isolate.yml", *vm_cpus)
    known = "pgrep -c ^scsi_eh_"
    host.run(
        f"n=$({known}); modprobe scsi_debug; for _ in $(seq 300); do [ $({known}) -gt $n ] && break; sleep 0.1; done"
    )
    try:
        audit = play(host, "playbooks/audit.yml")
        assert audit.returncode == 0 and "drift: []" in audit.stdout, audit.stdout
        for words in ("new kernel threads on reserved CPUs, which the next run binds", "name: scsi_eh_"):
            assert words in audit.stdout, audit.stdout
        strict = play(host, "playbooks/audit.yml", "-e", "audit_strict=true")
        assert strict.returncode != 0 and "name: scsi_eh_" in strict.stdout, strict.stdout

        bound = play(host, "playbooks/isolate.yml", *vm_cpus, "--diff")
        assert "changed=1" in bound.stdout and "+task.affinity:" in bound.stdout, bound.stdout
        strict = play(host, "playbooks/audit.yml", "-e", "audit_strict=true")
        assert strict.returncode == 0 and "notice: none" in strict.stdout, strict.stdout
    finally:
        host.run("modprobe --remove --wait 20000 scsi_debug")


def test_one_claim_is_one_task(host: VirtualHost) -> None:
    """After connecting, a host executes one module: the transaction."""
    done = play(host, "playbooks/isolate.yml", "-e", "isolate_vm_cpus=4-7", "-vv")
    executed = [line for line in done.stdout.splitlines() if line.startswith("TASK [")]
    on_host = [line for line in executed if "Validating arguments" not in line]
    assert len(on_host) == 1, executed
    steps = host.run("cat /run/vfio-isolation/journal.json").stdout
    names = [step["name"] for step in json.loads(steps)["claims"]["host"]["steps"]]
    assert names == ["drop_caches", "cpu_governor", "reserve_cpus", "compact_memory", "irq_affinity"]


def test_what_was_compiled_is_kept_as_long_as_there_is_a_claim(host: VirtualHost) -> None:
    """A second run compiles nothing. A damaged cache costs time only. Without a change, nothing is saved."""
    cache = "/run/vfio-isolation/code"
    vm_cpus = ("-e", "isolate_vm_cpus=4-7")
    status = f"stat -c '%a %u %Y' {cache}"
    play(host, "playbooks/isolate.yml", *vm_cpus, "--check")
    assert host.run(f"test -e {cache}").returncode != 0
    play(host, "playbooks/isolate.yml", *vm_cpus)
    written = host.run(status).stdout
    assert written.startswith("600 0 "), written

    kept = host.run(f"touch -d @1 {cache}; sha256sum {cache}").stdout
    again = play(host, "playbooks/isolate.yml", *vm_cpus, ANSIBLE_KEEP_REMOTE_FILES="1")
    assert "changed=0" in again.stdout, again.stdout
    assert host.run(status).stdout == "600 0 1\n" and host.run(f"sha256sum {cache}").stdout == kept
    module = host.run("ls -t ~/.ansible/tmp/*/AnsiballZ_transaction.py | head -n 1").stdout.strip()
    done = host.run(f"python3 - {module} 2>&1; rm -rf ~/.ansible/tmp", given=COMPILED.encode())
    compiled = {line.rpartition("module_utils/")[2] for line in done.stdout.splitlines() if "/vfio/isolation/" in line}
    assert "_zip_importer.py" in compiled, done.stdout
    assert not [name for name in compiled if "/steps/" in name or "/transaction/" in name], compiled

    host.run(f"echo damaged > {cache}")
    again = play(host, "playbooks/isolate.yml", *vm_cpus)
    assert "changed=0" in again.stdout and host.run(f"cat {cache}").stdout == "damaged\n", again.stdout
    play(host, "playbooks/revert.yml")
    assert host.run(f"test -e {cache}").returncode != 0


def test_role_variables(host: VirtualHost) -> None:
    """Each variable of the role reaches its step; an empty governor and false flags leave their steps out."""
    variables: dict[str, Any] = {
        "isolate_vm_cpus": ["4-5", "core:6"],
        "isolate_emulator_cpus": "7",
        "isolate_claim": "win11",
        "isolate_cgroup": "vm.slice",
        "isolate_governor": "",
        "isolate_irqs": False,
        "isolate_drop_caches": False,
        "isolate_compact_memory": False,
    }
    done = play(host, "playbooks/isolate.yml", "-e", json.dumps(variables))
    assert done.returncode == 0, done.stdout
    assert kernel(host, "/sys/fs/cgroup/vm.slice/cpuset.cpus") == "4-7"
    assert kernel(host, "/sys/fs/cgroup/vm.slice/cpuset.cpus.partition") == "isolated"
    assert kernel(host, "/proc/irq/default_smp_affinity") == "ff"
    journal = json.loads(kernel(host, "/run/vfio-isolation/journal.json"))
    assert [step["name"] for step in journal["claims"]["win11"]["steps"]] == ["reserve_cpus"]
    other = play(host, "playbooks/revert.yml", "-e", "revert_claim=other")
    assert "changed=0" in other.stdout, other.stdout
    done = play(host, "playbooks/revert.yml", "-e", "revert_claim=win11")
    assert "changed=1" in done.stdout, done.stdout
    assert kernel(host, "/sys/fs/cgroup/cpuset.cpus.effective") == "0-7"


def test_bad_arguments(host: VirtualHost) -> None:
    """A step that does not exist, a wrong option, a bad expression: one sentence each, and nothing is claimed."""
    missing = play(host, "playbooks/isolate.yml")
    assert missing.returncode != 0 and "isolate_vm_cpus" in missing.stdout, missing.stdout
    bad = play(host, "playbooks/isolate.yml", "-e", "isolate_vm_cpus=4-x")
    assert bad.returncode != 0 and "term 1, '4-x'" in bad.stdout, bad.stdout
    assert host.run("ls /run/vfio-isolation/journal.json").returncode != 0


def test_role_on_v1(v1_host: VirtualHost) -> None:
    """The role isolates a host with cgroup v1, with memory that migrates; audit and the way back are the same."""
    cpuset = "/sys/fs/cgroup/cpuset"
    v1_host.run("systemctl stop irqbalance")
    given = ("-e", "isolate_vm_cpus=4-7", "-e", "isolate_memory_migrate=true", "-e", "isolate_host_mems=0-1")
    checked = play(v1_host, "playbooks/isolate.yml", *given, "--check", "--diff")
    assert checked.returncode == 0 and "+cgroup.memory_migrate:/host.slice 1" in checked.stdout, checked.stdout
    assert v1_host.run(f"test -e {cpuset}/host.slice").returncode != 0
    done = play(v1_host, "playbooks/isolate.yml", *given)
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout
    files = {"cpus": "0-3", "mems": "0-1", "memory_migrate": "1"}
    assert {name: kernel(v1_host, f"{cpuset}/host.slice/cpuset.{name}") for name in files} == files
    assert kernel(v1_host, "/proc/1/cpuset") == "/host.slice"
    again = play(v1_host, "playbooks/isolate.yml", *given)
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout
    audit = play(v1_host, "playbooks/audit.yml")
    assert audit.returncode == 0 and "strategy: tasks" in audit.stdout, audit.stdout
    reverted = play(v1_host, "playbooks/revert.yml")
    assert reverted.returncode == 0 and "changed=1" in reverted.stdout, reverted.stdout
    assert kernel(v1_host, "/proc/1/cpuset") == "/" and v1_host.run(f"test -e {cpuset}/host.slice").returncode != 0
