# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which processes are virtual machines, on real files and links."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, Optional, Sequence

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.host import Host
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.task import TaskId
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.virtual_machines import VirtualMachines
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.kernel.mounted import V2, cgroups

MOUNTED = {"/proc/self/mountinfo": V2, "/sys/fs/cgroup/cgroup.controllers": "cpuset"}
KVM = {**MOUNTED, "/dev/kvm": ""}
QEMU = "qemu-system-x86"
OPEN = ("/dev/null", "/dev/kvm", "anon_inode:kvm-vm", "socket:[4711]")


def stat(number: int) -> str:
    """The line of a task that began at 1000 and its number."""
    return f"{number} (CPU 0/KVM) " + " ".join(["S"] + ["0"] * 18 + [str(1000 + number)] + ["0"] * 30)


def process(number: int, comm: str = QEMU, arguments: Sequence[str] = (QEMU,), threads: Sequence[int] = ()) -> dict:
    """The files of a process that has these threads besides its first."""
    files = {
        f"/proc/{number}/comm": f"{comm}\n",
        f"/proc/{number}/cmdline": "".join(f"{argument}\0" for argument in arguments),
    }
    for thread in (number, *threads):
        files[f"/proc/{thread}/stat"] = files[f"/proc/{number}/task/{thread}/stat"] = stat(thread) + "\n"
        files[f"/proc/{thread}/cgroup"] = f"0::/machine.slice/{number}.scope\n"
    return files


def opens(host: Host, number: int, *files: str) -> None:
    """A process has these files open: nothing need be where the links lead to."""
    os.makedirs(host.path(f"/proc/{number}/fd"))
    for descriptor, file in enumerate(files):
        os.symlink(file, host.path(f"/proc/{number}/fd/{descriptor}"))


def machines(tmp_path: Path, files: Dict[str, str], **open_files: Sequence[str]) -> VirtualMachines:
    """Those of a host with these files; `_7=...` are the files that process 7 has open."""
    found = cgroups(tmp_path, files)
    for number, paths in open_files.items():
        opens(found.host, int(number[1:]), *paths)
    return VirtualMachines(found.host, found)


def test_a_virtual_machine_has_its_name_its_cgroup_and_its_threads(tmp_path: Path) -> None:
    files = {**KVM, **process(30), **process(7, arguments=(QEMU, "-name", "win11", "-m", "4G"), threads=(8, 9))}
    found, other = machines(tmp_path, files, _7=OPEN, _30=OPEN).running()
    assert (found.process, found.name, found.cgroup) == (7, "win11", "/machine.slice/7.scope")
    assert found.threads == [TaskId(7, 1007), TaskId(8, 1008), TaskId(9, 1009)]
    assert (other.process, other.cgroup, other.threads) == (30, "/machine.slice/30.scope", [TaskId(30, 1030)])


@pytest.mark.parametrize(
    ("comm", "files", "counts"),
    [
        (QEMU, OPEN, True),
        ("qemu-kvm", OPEN, True),
        ("qemu-system-aar", OPEN, True),
        ("kvm", OPEN, True),  # on Proxmox VE
        (QEMU, ("/dev/null", "/dev/kvm2", "/dev/kvm (deleted)", "/x/dev/kvm", "anon_inode:kvm-vm"), False),
        (QEMU, (), False),  # it emulates the processor
        ("cloud-hyperviso", OPEN, False),
        ("bash", OPEN, False),
        ("my-qemu", OPEN, False),
        ("kvm-pit", OPEN, False),  # a kernel thread
        ("kvmfoo", OPEN, False),
    ],
)
def test_virtual_machines_are_what_has_a_name_of_qemu_s_and_kvm(
    tmp_path: Path, comm: str, files: Sequence[str], counts: bool
) -> None:
    found = machines(tmp_path, {**KVM, **process(7, comm)}, _7=files).running()
    assert [machine.process for machine in found] == [7] * counts


def test_a_host_without_kvm_has_none(tmp_path: Path) -> None:
    found = machines(tmp_path / "without", {**MOUNTED, **process(7)}, _7=OPEN)
    assert found.running() == []
    assert len(machines(tmp_path / "with", {**KVM, **process(7)}, _7=OPEN).running()) == 1


@pytest.mark.parametrize(
    ("uses", "counts"),
    [
        ({}, True),  # KVM is built in
        ({"kvm_intel": "6"}, True),
        ({"kvm_amd": "1"}, True),
        ({"kvm_intel": "0"}, False),
        ({"kvm_amd": "0"}, False),
        ({"kvm_amd": "0", "kvm_intel": "0"}, False),
        ({"kvm_amd": "0", "kvm_intel": "10"}, True),
        ({"kvm": "0"}, True),  # not the module that is used with each virtual machine
    ],
)
def test_a_host_whose_kvm_nobody_uses_has_none(tmp_path: Path, uses: Dict[str, str], counts: bool) -> None:
    files = {f"/sys/module/{module}/refcnt": f"{number}\n" for module, number in uses.items()}
    found = machines(tmp_path, {**KVM, **process(7), **files}, _7=OPEN)
    assert [machine.process for machine in found.running()] == [7] * counts


def test_its_vcpus_are_the_threads_that_have_such_names(tmp_path: Path) -> None:
    files = {**KVM, **process(7, threads=(8, 9, 10, 11, 12))}
    names = {8: "CPU 0/KVM", 9: "CPU 12/KVM", 10: "IO mon_iothread", 11: "MY CPU 1/KVM", 12: "CPU /KVM"}
    files.update({f"/proc/7/task/{thread}/comm": f"{name}\n" for thread, name in names.items()})
    (found,) = machines(tmp_path, files, _7=OPEN).running()
    assert found.vcpus == [TaskId(8, 1008), TaskId(9, 1009)] and len(found.threads) == 6


@pytest.mark.parametrize("gone", [f"/proc/7/{name}" for name in ("comm", "fd", "cgroup", "task", "stat")])
def test_a_process_that_ends_meanwhile_is_none_and_others_are_found(tmp_path: Path, gone: str) -> None:
    found = cgroups(tmp_path, {**KVM, **process(7), **process(8)})
    for number in (7, 8):
        opens(found.host, number, *OPEN)
    os.rename(found.host.path(gone), tmp_path / "gone")
    assert [machine.process for machine in VirtualMachines(found.host, found).running()] == [8]


def test_a_thread_that_has_ended_is_left_out(tmp_path: Path) -> None:
    files = {**KVM, **process(7, threads=(8, 9))}
    del files["/proc/9/stat"], files["/proc/9/cgroup"]
    (found,) = machines(tmp_path, files, _7=OPEN).running()
    assert [thread.number for thread in found.threads] == [7, 8]


def test_without_its_command_line_it_has_no_name(tmp_path: Path) -> None:
    files = {**KVM, **process(7)}
    del files["/proc/7/cmdline"]
    (found,) = machines(tmp_path, files, _7=OPEN).running()
    assert found.name == ""


def test_one_outside_of_what_is_mounted_here_is_in_no_cgroup_and_counts_for_nothing(tmp_path: Path) -> None:
    files = {**KVM, **process(7), **process(8), "/proc/self/mountinfo": V2.replace(" / /sys", " /box /sys")}
    files["/proc/8/cgroup"] = "0::/box/vm\n"
    found = machines(tmp_path, files, _7=OPEN, _8=OPEN).running()
    assert [(machine.process, machine.cgroup) for machine in found] == [(8, "/vm")]


@pytest.mark.parametrize("number", ["²", "٣", "self", "7x"])
def test_what_only_looks_like_a_process_is_none(tmp_path: Path, number: str) -> None:
    found = cgroups(tmp_path, {**KVM, **process(7), f"/proc/{number}/comm": QEMU})
    opens(found.host, 7, *OPEN)
    os.symlink("../7/fd", found.host.path(f"/proc/{number}/fd"))
    assert [machine.process for machine in VirtualMachines(found.host, found).running()] == [7]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["-name", "win11"], "win11"),
        (["-name", "win11,debug-threads=on"], "win11"),
        (["-name", "guest=win11,debug-threads=on"], "win11"),
        (["-name", "debug-threads=on,guest=a b"], "a b"),
        (["-m", "4G", "-name", "guest=win11", "-smp", "2"], "win11"),
        (["-name", "guest=", "-m", "4G"], ""),
        (["-m", "4G"], ""),
        (["-m", "4G", "-name"], ""),
        ([], ""),
        (["-name", "guest=wörld"], "wörld"),
        (["-name", "guest=a\nb\x1b[2J"], r"'a\nb\x1b[2J'"),
        (["-name", "a\x07,debug-threads=on"], r"'a\x07'"),
    ],
)
def test_the_name_is_what_qemu_was_given(tmp_path: Path, arguments: Sequence[str], name: str) -> None:
    (found,) = machines(tmp_path, {**KVM, **process(7, arguments=(QEMU, *arguments))}, _7=OPEN).running()
    assert found.name == name
    assert str(found) == (f"QEMU process 7 ({name})" if name else "QEMU process 7")


def test_they_are_looked_for_once(tmp_path: Path) -> None:
    found = cgroups(tmp_path, {**KVM, **process(7), **process(8)})
    opens(found.host, 7, *OPEN)
    known = VirtualMachines(found.host, found)
    assert [machine.process for machine in known.running()] == [7]
    opens(found.host, 8, *OPEN)
    assert [machine.process for machine in known.running()] == [7]
    assert [machine.process for machine in VirtualMachines(found.host, found).running()] == [7, 8]


def test_none_are_looked_for_once_as_well(tmp_path: Path) -> None:
    found = cgroups(tmp_path, {**KVM, **process(7)})
    known = VirtualMachines(found.host, found)
    assert known.running() == []
    opens(found.host, 7, *OPEN)
    assert known.running() == [] != VirtualMachines(found.host, found).running()


@pytest.mark.parametrize(("cpus", "expected"), [(frozenset({4, 5}), {4, 5}), (None, set())])
def test_a_thread_s_cpus_are_none_once_it_has_ended(tmp_path: Path, cpus: Optional[frozenset], expected: set) -> None:
    host = FakeHost(str(tmp_path), {})
    if cpus is not None:
        host.affinities[8] = cpus
    assert VirtualMachines(host, cgroups(tmp_path, MOUNTED)).affinity(TaskId(8, 1008)) == expected


def test_links_are_read_and_not_followed(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/proc/7/fd/a file": "", "/dev/kvm": "", "/x/y/z": ""})
    for name, target in (("0", "/dev/kvm"), ("1", "../nowhere"), ("2", "pipe:[12]"), ("3", "/dev/kvm"), ("4", "4")):
        os.symlink(target, host.path(f"/proc/7/fd/{name}"))
    os.symlink("7", host.path("/proc/self"))
    expected = ["../nowhere", "/dev/kvm", "/dev/kvm", "4", "pipe:[12]"]
    assert sorted(host.links("/proc/7/fd")) == sorted(host.links("/proc/self/fd")) == expected
    assert host.links("/x/y") == [] == host.links("/x")


def test_links_that_cannot_be_listed_are_none(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/proc/7/comm": ""})
    os.symlink("loop", host.path("/proc/loop"))
    for path in ("/proc/8/fd", "/proc/7/fd", "/proc/7/comm", "/proc/7/comm/fd", "/proc/loop", f"/{'x' * 300}"):
        assert host.links(path) == [], path


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any directory")
def test_links_that_must_not_be_read_are_none(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {})
    opens(host, 7, "/dev/kvm")
    os.chmod(host.path("/proc/7/fd"), 0)
    try:
        assert host.links("/proc/7/fd") == []
    finally:
        os.chmod(host.path("/proc/7/fd"), 0o700)


def test_a_link_that_goes_away_while_others_are_read_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost(str(tmp_path), {})
    opens(host, 7, "/dev/null", "/dev/kvm")
    listdir = os.listdir

    def and_one_is_closed(path: str) -> Sequence[str]:
        names = listdir(path)
        os.unlink(f"{path}/0")
        return names

    monkeypatch.setattr(os, "listdir", and_one_is_closed)
    assert host.links("/proc/7/fd") == ["/dev/kvm"]
