# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A VM of Proxmox VE that starts isolates its host, one that ends gives it back: on a model of Proxmox VE, see
`proxmox_model`, with a real QEMU, systemd and kernel."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from typing import Any

from module_utils._engine.errors import IsolationError
from module_utils._engine.kernel.host import Host
from module_utils._host_files import hookscript_files
from module_utils._proxmox import Hookscript

from . import proxmox_model as model
from .domains import PYTHON, logged
from .ground import (
    CGROUP,
    JOURNAL,
    assert_isolated,
    at_end,
    engine,
    read,
    refused,
    sh,
    snapshot,
    unchanged,
    use_model_of_kvm,
)

SCRIPT = "/var/lib/vz/snippets/vfio-isolation"
VOLUME = "local:snippets/vfio-isolation"


def _proxmox(**vms: str) -> dict[str, str]:
    """A Proxmox VE host with virtual machines by name: their configurations. Returns the state before."""
    use_model_of_kvm()
    sh("systemctl start qemu.slice")
    at_end(_take_away)
    for program, name in model.PROGRAMS.items():
        with open(program, "w") as stream:
            stream.write(f'#!/bin/sh\nexec {PYTHON} {os.path.abspath(model.__file__)} {name} "$@"\n')
        os.chmod(program, 0o755)
    for directory in (f"{model.PVE}/qemu-server", model.RUN, os.path.dirname(SCRIPT)):
        os.makedirs(directory)
    with open(f"{model.PVE}/storage.cfg", "w") as stream:
        stream.write(model.STORAGES)
    for name, text in vms.items():
        _configure(name.lstrip("vm"), text)
    return snapshot()


def _configure(vmid: str, text: str) -> None:
    with open(model.config_path(vmid), "w") as stream:
        stream.write(text)


def _take_away() -> None:
    sh("systemctl stop 'vfio-isolation-vm-*' qemu.slice")
    for path in (*model.PROGRAMS, model.PVE, model.RUN, "/var/lib/vz", "/mnt/other"):
        (shutil.rmtree if os.path.isdir(path) else os.unlink)(path) if os.path.exists(path) else None


def _install(*named: str, storage: str = "local", check: bool = False, **vms: dict[str, Any]) -> list[str]:
    """Install the hookscript for these virtual machines; the paths that changed. It goes when the check ends."""
    configured = {**{vmid: {} for vmid in named}, **{name.lstrip("vm"): given for name, given in vms.items()}}
    hookscript = Hookscript(Host(), check)
    at_end(_uninstall)
    snippet = hookscript.on(storage)
    found = hookscript.install(snippet, hookscript_files(snippet, configured, None, PYTHON), list(configured))
    return [change.path for change in found]


def _uninstall() -> None:
    hookscript = Hookscript(Host(), check=False)
    with hookscript.detached():
        hookscript.uninstall()


def _qm(verb: str, *arguments: str, fails: bool = False) -> str:
    """Run qm; what it prints."""
    done = subprocess.run(
        ["qm", verb, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


def _claims() -> set[str]:
    return set(json.loads(read(JOURNAL))["claims"]) if os.path.exists(JOURNAL) else set()


def _ended(before: dict[str, str], seconds: float = 60) -> None:
    """Wait until no claim is left, and nobody watches any more; all is as before."""
    deadline = time.monotonic() + seconds
    while _claims() or _watched() or os.listdir(model.RUN) != []:
        assert time.monotonic() < deadline, (_claims(), _watched(), os.listdir(model.RUN))
        time.sleep(0.2)
        for name in os.listdir(model.RUN):  # Proxmox VE leaves the pid file of a QEMU that was killed
            if name.endswith(".pid") and not model.process(name[:-4]):
                os.unlink(f"{model.RUN}/{name}")
    unchanged(before)


def _watched() -> list[str]:
    return sh("systemctl list-units --plain --no-legend 'vfio-isolation-vm-*'").splitlines()


def _affinities(vmid: str) -> set[frozenset[int]]:
    return {frozenset(os.sched_getaffinity(int(t))) for t in os.listdir(f"/proc/{model.process(vmid)}/task")}


def check_start_and_stop() -> None:
    """Two VMs, in an order that crosses: each has its CPUs as long as it runs, and in the end nothing is left."""
    before = _proxmox(vm100="affinity: 4,5\ncores: 2\n", vm101="affinity: 6-7\ncores: 2\n")
    assert _install("100", "101")[-2:] == [model.config_path("100"), model.config_path("101")]
    assert model.main_section("100")["hookscript"] == VOLUME
    assert _install("100", "101") == []
    since = time.time()
    _qm("start", "100")
    assert_isolated({4, 5}, cgroup="qemu.slice")
    assert read(f"{CGROUP}/qemu.slice/cpuset.cpus.partition") == "root"  # its threads share two CPUs
    assert _affinities("100") == {frozenset({4, 5})}
    assert re.search(r"VM 100: pre-start: partition type root, because its QEMU process is pinned", logged(since))
    _qm("start", "101")
    assert _claims() == {"100", "101"}
    assert_isolated({4, 5, 6, 7}, cgroup="qemu.slice")
    assert not engine().inspect()[1].changes and not engine().inspect()[1].warnings
    _qm("stop", "100")
    assert _claims() == {"101"}
    assert_isolated({6, 7}, cgroup="qemu.slice")
    assert _affinities("101") == {frozenset({6, 7})}
    _qm("stop", "101")
    _ended(before)


def check_qemu_is_killed() -> None:
    """Proxmox VE calls post-stop then, too."""
    before = _proxmox(vm100="affinity: 4-7\n")
    _install("100")
    _qm("start", "100")
    assert_isolated(cgroup="qemu.slice")
    since = time.time()
    os.kill(model.process("100"), signal.SIGKILL)
    _ended(before)
    assert "VM 100: post-stop: " in logged(since)


def check_no_post_stop() -> None:
    """A QEMU that does not start, one whose end nobody reports, one that moves to another host: as Proxmox VE does not
    call the hookscript then, the unit that watches the VM gives everything back."""
    before = _proxmox(vm100="affinity: 4-7\nargs: -no-such-option\n")
    _install("100")
    since = time.time()
    assert "start failed: QEMU exited" in _qm("start", "100", fails=True)
    _ended(before)
    told = logged(since)
    assert "VM 100: pre-start: " in told and "VM 100: watch: " in told and "post-stop" not in told, told

    _configure("100", f"affinity: 4-7\nhookscript: {VOLUME}\n")
    _qm("start", "100")
    open(f"{model.RUN}/qmeventd-is-dead", "w").close()
    os.kill(model.process("100"), signal.SIGKILL)
    time.sleep(1)
    os.unlink(f"{model.RUN}/qmeventd-is-dead")
    os.unlink(f"{model.RUN}/100.cleanup")
    _ended(before)

    _qm("start", "100")
    assert_isolated(cgroup="qemu.slice")
    _qm("migrate", "100")
    _ended(before)
    # While it comes back, its configuration is still the other host's.
    with model.locked("100"):
        done = subprocess.run([SCRIPT, "100", "pre-start"], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and _claims() == {"100"}, done
    _ended(before)  # its QEMU has not come


def check_it_is_started_again_at_once() -> None:
    """What watched the VM before takes nothing from the one that runs now."""
    before = _proxmox(vm100="affinity: 4-7\n")
    _install("100")
    for _time in range(3):
        _qm("start", "100")
        assert_isolated(cgroup="qemu.slice")
        os.kill(model.process("100"), signal.SIGKILL) if _time == 1 else _qm("stop", "100")
    _qm("start", "100")
    time.sleep(8)  # until what watched the others has seen it
    assert _claims() == {"100"} and len(_watched()) == 1, _watched()
    assert_isolated(cgroup="qemu.slice")
    _qm("stop", "100")
    _ended(before)


def check_isolating_fails() -> None:
    """The VM does not start, the task says why, and nothing has changed; unless isolation is not required."""
    before = _proxmox(vm100="cores: 1\n", vm101="affinity: 4,99\n")
    _install("100", "101")
    since = time.time()
    told = _qm("start", "100", fails=True)
    assert "VM 100 does not say where its vCPUs run; add affinity (qm set 100 --affinity 4-7)" in told, told
    told = _qm("start", "101", fails=True)
    assert "99" in told and told.count("vfio-isolation: ") == 1, told
    _ended(before)
    _install(vm100={"required": False}, vm101={"isolate_vm_cpus": "5", "isolate_strategy": "fast"})
    _qm("start", "100")
    assert "VM 100: pre-start: it starts without isolation: VM 100 does not say" in logged(since)
    assert "isolate_strategy" in _qm("start", "101", fails=True)
    _qm("stop", "100")
    _ended(before)


def check_who_has_no_name() -> None:
    """A clone and a template have the hookscript, and nothing is configured for them: they are left alone. Without it,
    a VM could start unseen, so there is no partition."""
    before = _proxmox(vm100="affinity: 4-5\n", vm900="template: 1\naffinity: 6-7\n")
    _install("100")
    _qm("set", "900", "--hookscript", VOLUME)
    _qm("clone", "900", "101")
    assert model.main_section("101")["hookscript"] == VOLUME
    since = time.time()
    _qm("start", "101")
    assert _claims() == set() and "VM 101" not in logged(since)
    _qm("start", "100")
    assert_isolated({4, 5}, "slices", "qemu.slice")
    assert "strategy slices, because no CPUs are reserved for what runs in /qemu.slice/101.scope" in logged(since)
    assert _affinities("101") == {frozenset({6, 7})}
    _qm("stop", "101")
    _qm("stop", "100")
    _ended(before)
    _qm("start", "100")
    assert_isolated({4, 5}, "partition", "qemu.slice")
    _qm("start", "101")
    assert_isolated({4, 5}, "slices", "qemu.slice")
    assert "VM 101: pre-start: the claim 100 continues without a partition" in logged(since)
    _qm("stop", "101")
    _qm("stop", "100")
    _ended(before)
    _qm("set", "101", "--delete", "hookscript")
    _qm("start", "100")
    assert_isolated({4, 5}, "slices", "qemu.slice")
    assert "nobody would notice the start of VM 101, without this hookscript" in logged(since)
    _qm("stop", "100")
    _ended(before)


def check_sections_of_a_configuration() -> None:
    """What is pending or of a snapshot is not the VM's."""
    sections = "[PENDING]\naffinity: 1-3\n\n[before]\naffinity: 2\nhookscript: local:snippets/theirs\n"
    before = _proxmox(vm100=f"#affinity: 0\naffinity: 6-7\n\n{sections}", vm101=f"cores: 1\n\n{sections}")
    _install("100", "101")
    assert sections in read(model.config_path("100")) + "\n"
    _qm("start", "100")
    assert_isolated({6, 7}, cgroup="qemu.slice")
    _qm("stop", "100")
    assert "does not say where its vCPUs run" in _qm("start", "101", fails=True)
    _ended(before)


def check_calls_that_are_not_ours() -> None:
    """Other phases do nothing; an ID that is no number is refused if everybody is configured, and changes nothing."""
    before = _proxmox(vm100="affinity: 4-7\n")
    _install("100")
    for phase in ("post-start", "pre-stop", "no-such-phase", ""):
        done = subprocess.run([SCRIPT, "100", phase], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    for vmid in ("abc", "0100", "99", "100/../100", ""):
        done = subprocess.run([SCRIPT, vmid, "pre-start"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    snippet = Hookscript(Host(), check=False).on("local")
    Hookscript(Host(), check=False).install(snippet, hookscript_files(snippet, {}, {}, PYTHON), [])
    for vmid in ("abc", "0100", "99"):
        done = subprocess.run([SCRIPT, vmid, "pre-start"], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "is not the ID of a Proxmox VE virtual machine" in done.stderr, done
    _ended(before)


def check_attaching() -> None:
    """All of it or nothing: a VM that is locked, one that has another hookscript, one that does not exist."""
    _proxmox(vm100="affinity: 4\n", vm101="affinity: 5\nlock: backup\n", vm102="hookscript: local:snippets/theirs\n")
    configs = {vmid: read(model.config_path(vmid)) for vmid in ("100", "101", "102")}
    for named, words in (
        (("100", "101"), "VM is locked (backup)"),
        (("100", "102"), "vms: VM 102 already has the hookscript local:snippets/theirs"),
        (("100", "103"), "vms: there is no VM 103 on this host; there are 100, 101, 102"),
    ):
        assert words in refused(lambda named=named: _install(*named))
        assert {vmid: read(model.config_path(vmid)) for vmid in configs} == configs
        assert not os.path.exists(SCRIPT) and not os.path.exists("/usr/local/lib/vfio-isolation")
    for storage, words in (
        ("plain", "pvesm set plain --content images,snippets"),
        ("tank", "tank is a storage of type zfspool, which has no directory for snippets"),
        ("none", "Proxmox VE reports no storage 'none' on this host"),
        ("a b", "storage: 'a b' is not the ID of a storage"),
    ):
        assert words in refused(lambda storage=storage: _install("100", storage=storage))
    assert _install("100", check=True)[-1] == model.config_path("100")
    assert not os.path.exists(SCRIPT)
    _install("100")
    _qm("clone", "100", "104")
    assert read(model.config_path("100")) == f"{configs['100']}\nhookscript: {VOLUME}"
    # To another storage, whose snippets have a directory of their own: copies go with it.
    found = _install("100", storage="other")
    assert {SCRIPT, "/mnt/other/hooks/vfio-isolation", model.config_path("104")} <= set(found)
    assert os.access("/mnt/other/hooks/vfio-isolation", os.X_OK) and not os.path.exists(SCRIPT)
    assert model.main_section("104")["hookscript"] == "other:snippets/vfio-isolation"
    _configure("104", f"{read(model.config_path('104'))}\nlock: clone\n")
    attached = read(model.config_path("100"))
    assert "VM is locked (clone)" in refused(_uninstall)
    assert sorted(read(model.config_path("100")).split("\n")) == sorted(attached.split("\n"))
    _configure("104", "hookscript: other:snippets/vfio-isolation\n")
    _uninstall()
    assert {vmid: read(model.config_path(vmid)) for vmid in configs} == configs
    assert "hookscript" not in model.main_section("104")
    for path in ("/mnt/other/hooks/vfio-isolation", "/usr/local/lib/vfio-isolation", "/etc/vfio-isolation"):
        assert not os.path.exists(path), path


def check_no_proxmox() -> None:
    """A host without qm gets one sentence."""
    try:
        Hookscript(Host(), check=True)
    except IsolationError as error:
        assert str(error) == "this is not a Proxmox VE host: it has no /usr/sbin/qm; for libvirt, use libvirt_hook"
    else:
        raise AssertionError("this should have been refused")
