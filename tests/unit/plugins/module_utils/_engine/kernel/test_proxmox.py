# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtual machines of a Proxmox VE host, as its files have them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Dict, Optional

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.proxmox import ProxmoxVms, check_id
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.proxmox_config import Config
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

CONFIG = "/etc/pve/qemu-server/100.conf"
ELSEWHERE = "/etc/pve/nodes/b/qemu-server/100.conf"
PID_FILE = "/run/qemu-server/100.pid"
LOCK = "/run/lock/qemu-server/lock-100.conf"
NO_IDS = [*"99 0 0100 1000000000 abc 100/../1 100.conf -100".split(), "", "100\n", " 100", "1\u0660\u0660", "1²³"]


def vms(tmp_path: Path, files: Dict[str, str]) -> ProxmoxVms:
    """The virtual machines of a host with these files."""
    return ProxmoxVms(FakeHost(str(tmp_path), files))


@pytest.mark.parametrize("name", ["100", "999", "1000", "999999999"])
def test_an_id_is_a_number_from_100_on(name: str) -> None:
    assert check_id(name) == name


@pytest.mark.parametrize("name", NO_IDS)
def test_what_is_no_id_never_becomes_a_part_of_a_path(tmp_path: Path, name: str) -> None:
    words = "is not the ID of a Proxmox VE virtual machine, a number from 100 to 999999999"
    found = vms(tmp_path, {CONFIG: "affinity: 4\n"})
    for use in (check_id, found.config, found.locked):
        with pytest.raises(ValueError, match=words):
            use(name)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({CONFIG: "affinity: 4\n", "/etc/pve/nodes/a/qemu-server/100.conf": "affinity: 4\n"}, Config("4", "", False)),
        ({CONFIG: "affinity: 4\n", ELSEWHERE: "affinity: 5\n"}, Config("4", "", False)),
        ({CONFIG: "", ELSEWHERE: "affinity: 5\n"}, Config("", "", False)),
        ({"/etc/pve/nodes/a/qemu-server/101.conf": "", ELSEWHERE: "affinity: 5\n"}, Config("5", "", False)),
        ({"/etc/pve/qemu-server/101.conf": "affinity: 4\n", "/etc/pve/nodes/b/lxc/100.conf": "affinity: 4\n"}, None),
        ({}, None),
    ],
    ids=["here", "here first", "here, empty", "still on another node", "another's", "none"],
)
def test_a_configuration_is_this_host_s_or_another_node_s_while_it_migrates(
    tmp_path: Path, files: Dict[str, str], expected: Optional[Config]
) -> None:
    assert vms(tmp_path, files).config("100") == expected


def test_the_configurations_of_this_host_are_those_with_an_id(tmp_path: Path) -> None:
    names = ["99.conf", "0100.conf", "100.conf.tmp.1", "1000000000.conf", "abc.conf", "100", ".conf", "x100.conf"]
    files = {f"/etc/pve/qemu-server/{name}": "affinity: 4\n" for name in (*names, "100.conf", "4711.conf")}
    found = vms(tmp_path, {**files, ELSEWHERE.replace("100", "101"): "affinity: 4\n"}).configs()
    assert found == dict.fromkeys(["100", "4711"], Config("4", "", False))
    assert vms(tmp_path / "none", {}).configs() == {}


def command_line(*arguments: str) -> str:
    """The command line of a process, as /proc has it."""
    return "".join(f"{argument}\0" for argument in arguments)


QEMU = command_line("/usr/bin/kvm", "-id", "100", "-pidfile", "/var/run/qemu-server/100.pid", "-daemonize")


@pytest.mark.parametrize(
    ("pid_file", "arguments", "process"),
    [
        ("77\n", QEMU, 77),
        ("77", QEMU.replace("/var", ""), 77),
        ("77\n", QEMU.replace("100.pid", "1100.pid"), None),
        ("77\n", QEMU.replace("-pidfile", "-name"), None),
        ("77\n", command_line("/usr/bin/vi", "/var/run/qemu-server/100.pid"), None),
        ("77\n", command_line("kvm", "-pidfile"), None),
        ("77\n", "", None),
        ("77\n", None, None),
        ("78\n", QEMU, None),
        ("\n", QEMU, None),
        (None, QEMU, None),
    ],
)
def test_a_process_is_a_vm_s_if_it_was_started_with_its_pid_file(
    tmp_path: Path, pid_file: Optional[str], arguments: Optional[str], process: Optional[int]
) -> None:
    given = {PID_FILE: pid_file, "/proc/77/cmdline": arguments}
    found = vms(tmp_path, {path: text for path, text in given.items() if text is not None})
    assert found.process("100") == process
    assert found.processes() == ({"100": process} if process else {})


@pytest.mark.parametrize("text", ["²", "\u0663", "-77", "self", "0x4d", "7" * 30])
def test_the_process_of_a_vm_is_a_number_in_plain_digits(tmp_path: Path, text: str) -> None:
    assert vms(tmp_path, {PID_FILE: f"{text}\n", f"/proc/{text}/cmdline": QEMU}).process("100") is None


def test_the_processes_are_those_of_all_that_run(tmp_path: Path) -> None:
    files = {
        PID_FILE: "77\n",
        "/proc/77/cmdline": QEMU,
        "/run/qemu-server/101.pid": "78\n",
        "/proc/78/cmdline": QEMU.replace("100", "101"),
        "/run/qemu-server/102.pid": "79\n",  # it has ended
        "/run/qemu-server/100.qmp": "",
        "/run/qemu-server/103.vnc": "77\n",
    }
    assert vms(tmp_path, files).processes() == {"100": 77, "101": 78}


def test_the_lock_of_a_vm_is_the_one_that_proxmox_holds(tmp_path: Path) -> None:
    found = vms(tmp_path, {LOCK: ""})
    with open(f"{tmp_path}{LOCK}", encoding="utf-8") as theirs:
        with found.locked("100"), pytest.raises(BlockingIOError):
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_nobody_has_taken_yet_is_not_made(tmp_path: Path) -> None:
    with vms(tmp_path, {}).locked("100"):
        assert os.listdir(tmp_path) == []
