# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The CPUs of libvirt domains, as an expression names them."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.libvirt import Domains
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.topology import CPU, SysfsTopology
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import format_list
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.expression import evaluate
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

PINNED = """<domain><name>win 11</name><vcpu>2</vcpu><cputune>
<vcpupin vcpu='0' cpuset='4'/><vcpupin vcpu='1' cpuset='5'/><emulatorpin cpuset='2-3'/></cputune></domain>"""
FILES = {
    f"{CPU}/online": "0-7",
    "/etc/libvirt/qemu/win 11.xml": PINNED,
    "/etc/libvirt/qemu/loose.xml": "<domain><name>loose</name><vcpu>2</vcpu></domain>",
    "/etc/libvirt/qemu/bad.xml": "<!DOCTYPE d><domain/>",
    "/run/libvirt/qemu/fleeting.xml": f"<domstatus>{PINNED}</domstatus>",
}


def cpus(tmp_path: Path, expression: str) -> str:
    """What an expression names."""
    return format_list(evaluate(expression, SysfsTopology(FakeHost(str(tmp_path), FILES)), "cpus"))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("vm:win 11", "4-5"),
        ("vm:win 11:emulator", "2-3"),
        ("vm:win 11,vm:win 11:emulator,^3", "2,4-5"),
        ("vm:fleeting", "4-5"),
    ],
)
def test_a_domain_is_named(tmp_path: Path, expression: str, expected: str) -> None:
    assert cpus(tmp_path, expression) == expected


def test_of_a_domain_s_cpus_those_that_are_online_count(tmp_path: Path) -> None:
    def evaluated(online: str) -> str:
        host = FakeHost(str(tmp_path / online), {**FILES, f"{CPU}/online": online, f"{CPU}/possible": "0-7"})
        return format_list(evaluate("vm:win 11", SysfsTopology(host), "cpus"))

    assert evaluated("0-4") == "4"
    with pytest.raises(
        IsolationError, match=r"'win 11' is pinned to CPUs 4-5 there, and none of these is online; .* 0-3"
    ):
        evaluated("0-3")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("vm:loose", "does not say where its vCPUs run; add <cputune><vcpupin"),
        ("vm:loose:emulator", "does not say where its emulator runs; add <cputune><emulatorpin"),
        ("vm:gone", "there is no libvirt domain 'gone'; there are bad, fleeting, loose, win 11"),
        ("vm:bad", "/etc/libvirt/qemu/bad.xml: the domain's XML has a document type"),
        ("vm:", "'' is not the name of a libvirt domain"),
        ("vm:../../shadow", "is not the name of a libvirt domain"),
        ("vm:a/b", "is not the name of a libvirt domain"),
        ("vm:a\nb", "is not the name of a libvirt domain"),
        (f"vm:{'x' * 300}", "is not the name of a libvirt domain"),
        ("vm:$(reboot)", r"there is no libvirt domain '\$\(reboot\)'"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, expression: str, words: str) -> None:
    with pytest.raises(IsolationError, match=words):
        cpus(tmp_path, expression)


@pytest.mark.parametrize(
    ("directory", "found"),
    [
        ("/etc/dbus-1/system-services", True),
        ("/run/dbus-1/system-services", True),
        ("/usr/local/share/dbus-1/system-services", True),
        ("/usr/share/dbus-1/system-services", True),
        ("/usr/share/dbus-1/services", False),
        ("/lib/systemd/system", False),
    ],
)
def test_systemd_machined_is_where_d_bus_and_systemd_can_start_it(tmp_path: Path, directory: str, found: bool) -> None:
    service = {f"{directory}/org.freedesktop.machine1.service": "[D-BUS Service]\n"}
    booted = {"/run/systemd/system/keep": ""}
    for name, files, expected in (("both", {**service, **booted}, found), ("alone", service, False)):
        assert Domains(FakeHost(str(tmp_path / name), files)).has_machined() is expected
    other = {f"{directory}/org.freedesktop.login1.service": "", **booted}
    assert not Domains(FakeHost(str(tmp_path / "other"), other)).has_machined()


@pytest.mark.parametrize(("text", "process"), [("12\n", 12), ("²", None), ("٣", None), ("", None), ("-1", None)])
def test_the_process_of_a_domain_is_a_number_in_plain_digits(tmp_path: Path, text: str, process: Optional[int]) -> None:
    host = FakeHost(str(tmp_path), {"/run/libvirt/qemu/vm.pid": text})
    assert Domains(host).running() == {"vm"} and Domains(host).process("vm") == process
