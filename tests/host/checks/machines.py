# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where virtual machines run that are not in machine.slice: a real QEMU, in the cgroups that people have.

It emulates its guest, and holds open a model of /dev/kvm, as a QEMU with KVM does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time

from .domains import define, destroy, install, start, vcpus
from .domains import process as qemu_of
from .ground import (
    CGROUP,
    JOURNAL,
    assert_isolated,
    at_end,
    engine,
    isolate,
    job,
    process,
    read,
    refused,
    revert,
    sh,
    snapshot,
    unchanged,
    use_model_of_kvm,
    write,
)

MACHINED = "/usr/share/dbus-1/system-services/org.freedesktop.machine1.service"


def _kvm(name: str, *start_with: str, cpu_list: str = "") -> int:
    """Start QEMU, which runs nothing; its process. It is ended when the check ends."""
    use_model_of_kvm()
    qemu = f"exec kvm -name {name},debug-threads=on -accel tcg -display none -nodefaults -m 32 -smp 2 -S 9< /dev/kvm"
    child = process(cpu_list, argv=[*start_with, "sh", "-c", qemu])
    deadline = time.monotonic() + 60
    while not _runs(child):
        assert time.monotonic() < deadline, sh(f"ps -ef | grep {child}")
        time.sleep(0.1)
    return child


def _runs(child: int) -> bool:
    """Whether it is a QEMU that has its vCPUs, one of which QEMU starts last."""
    threads = {read(f"/proc/{child}/task/{thread}/comm") for thread in os.listdir(f"/proc/{child}/task")}
    return read(f"/proc/{child}/comm") == "kvm" and "CPU 1/TCG" in threads and "/dev/kvm" in _links(child)


def _links(child: int) -> list[str]:
    return [os.readlink(f"/proc/{child}/fd/{name}") for name in os.listdir(f"/proc/{child}/fd")]


def _in_slice(name: str) -> tuple[str, ...]:
    """What puts a command into a scope of a slice, as Proxmox VE does it for VMs: its process stays the same."""
    at_end(lambda: subprocess.run(["systemctl", "stop", name], check=False))
    return ("systemd-run", "--quiet", "--scope", "--collect", f"--slice={name}", "--unit=100")


def _affinities(child: int) -> set[frozenset[int]]:
    return {frozenset(os.sched_getaffinity(int(thread))) for thread in os.listdir(f"/proc/{child}/task")}


def check_qemu_in_another_slice() -> None:
    """A claim for machine.slice warns of it, each time, and names the variable; `auto` finds its cgroup."""
    before = snapshot()
    child = _kvm("vm100", *_in_slice("qemu.slice"), cpu_list="4-5")
    said = f"QEMU process {child} (vm100) may run on CPUs 4-5, but CPUs 4-7 are reserved for /machine.slice"
    wanted = "so it is kept off them; name /qemu.slice with the option cgroup (isolate_cgroup of the role)"
    for strategy in ("partition", "slices"):
        for check in (True, False, False):
            warnings = engine().apply("host", job(strategy=strategy), check).warnings
            assert any(said in line and wanted in line for line in warnings), warnings
        assert not set().union(*_affinities(child)) & {4, 5, 6, 7}  # what the warning is about
        assert any(said in line for line in engine().inspect()[1].warnings)
        revert()
        assert _affinities(child) == {frozenset({4, 5})}
    for check in (True, False):
        assert engine().apply("host", job(cgroup="auto", partition_type="root"), check).warnings == []
    assert_isolated(cgroup="qemu.slice")
    assert _affinities(child) == {frozenset({4, 5})}
    os.kill(child, 9)
    time.sleep(1)
    again = isolate(cgroup="auto", partition_type="root")  # where it found a VM before counts as long as there is none
    assert not again.changed and not again.warnings, again
    revert()
    sh("systemctl stop qemu.slice")
    unchanged(before)
    assert not os.path.exists(JOURNAL)


def check_qemu_in_a_user_session() -> None:
    """It cannot be told from what else runs there: the sentence says so, and how to start it instead."""
    before = snapshot()
    child = _kvm("mine", cpu_list="4-5")
    where = read(f"/proc/{child}/cgroup").partition("::")[2]
    assert where.startswith("/user.slice/"), where
    warnings = isolate().warnings
    assert any(f"QEMU process {child} (mine) may run on CPUs 4-5" in line for line in warnings), warnings
    assert any("start it in a slice of its own, such as with systemd-run --slice=vfio.slice" in w for w in warnings)
    revert()
    sentence = refused(lambda: isolate(cgroup="auto"))
    assert f"auto finds QEMU process {child} (mine) in {where}" in sentence and "systemd-run" in sentence, sentence
    os.kill(child, 9)
    child = _kvm("mine", *_in_slice("vfio.slice"), cpu_list="4-5")
    assert isolate(cgroup="auto", partition_type="root").warnings == []
    assert_isolated(cgroup="vfio.slice")
    assert _affinities(child) == {frozenset({4, 5})}
    revert()
    os.kill(child, 9)
    time.sleep(1)
    sh("systemctl stop vfio.slice")
    unchanged(before)


def check_vcpus_that_float() -> None:
    """In an isolated partition they would stay on one CPU: the claim says so, and what to do."""
    child = _kvm("loose", *_in_slice("vfio.slice"))
    for check in (True, False, False):
        (warning,) = engine().apply("host", job(cgroup="vfio.slice"), check).warnings
        assert f"QEMU process {child} (loose) has vCPUs that are not pinned to one CPU each" in warning, warning
        assert "pin them, or use partition_type: root" in warning, warning
    assert isolate(cgroup="vfio.slice", partition_type="root").warnings == []
    isolate(cgroup="vfio.slice")
    for thread in os.listdir(f"/proc/{child}/task"):
        match = re.match(r"CPU (\d)", read(f"/proc/{thread}/comm"))
        if match:
            os.sched_setaffinity(int(thread), {4 + int(match[1])})
    assert isolate(cgroup="vfio.slice").warnings == []


def check_qemu_that_no_claim_is_for() -> None:
    """One VM that may run anywhere beside another that is isolated is no mistake, once it is off these CPUs; the only
    one is, and two in two cgroups are too many for `auto`."""
    other = _kvm("other", *_in_slice("qemu.slice"))
    assert any(f"QEMU process {other} (other) may run on CPUs 4-7" in line for line in isolate().warnings)
    assert any(f"QEMU process {other} (other) runs, but" in line for line in isolate().warnings)
    revert()
    machine = _kvm("machine", "systemd-run", "--quiet", "--scope", "--slice=machine.slice", cpu_list="4-5")
    isolate(partition_type="root")
    assert isolate(partition_type="root").warnings == []
    revert()
    sentence = refused(lambda: isolate(cgroup="auto"))
    for text in (f"{other} (other) in /qemu.slice/100.scope", f"{machine} (machine) in /machine.slice/"):
        assert text in sentence, sentence


def check_libvirt_without_machined() -> None:
    """libvirt then has /machine; the hook knows that, before the first VM starts."""
    at_end(lambda: write(f"{CGROUP}/cgroup.subtree_control", "-io"))  # which libvirt has switched on
    at_end(lambda: sh("systemctl reload dbus && systemctl restart libvirtd"))
    at_end(lambda: os.rename(f"{MACHINED}.off", MACHINED))
    os.rename(MACHINED, f"{MACHINED}.off")
    sh("systemctl reload dbus && systemctl restart libvirtd")
    install("one", "two")
    define("one", "4,5", "6")
    define("two", "7")
    start("two")  # what libvirt itself leaves behind is part of the state before
    destroy("two")
    before = snapshot()
    start("one")
    assert read(f"/proc/{qemu_of('one')}/cgroup").startswith("0::/machine/qemu-"), read(
        f"/proc/{qemu_of('one')}/cgroup"
    )
    assert_isolated({4, 5, 6}, cgroup="machine", emulator={6})
    assert vcpus("one") == [{4}, {5}]
    assert read(f"{CGROUP}/machine/cpuset.cpus.partition") == "isolated"
    start("two")
    assert_isolated({4, 5, 6, 7}, cgroup="machine", emulator={6})
    assert set(json.loads(read(JOURNAL))["claims"]) == {"one", "two"}
    destroy("two")
    destroy("one")
    unchanged(before)
    assert not os.path.exists(JOURNAL)
