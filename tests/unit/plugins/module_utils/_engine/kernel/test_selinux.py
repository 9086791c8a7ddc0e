# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The labels of our files on hosts with SELinux; no host here has it, so its files and restorecon are made up."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import Refused
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.host import RESTORECON, SELINUX
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.libvirt import confines_hooks
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import HOOK, LIBVIRT, ROOT, RUNNER
from ansible_collections.vfio.isolation.plugins.module_utils._host_files import START, hook_files
from ansible_collections.vfio.isolation.plugins.module_utils._install import Installation
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

LABELLED = {f"{SELINUX}/enforce": "1", RESTORECON[0]: "", "/etc/libvirt/libvirtd.conf": "", "/usr/local/lib/x": ""}


def hosted(tmp_path: Path, *without: str) -> FakeHost:
    """A host with SELinux."""
    return FakeHost(str(tmp_path), {path: text for path, text in LABELLED.items() if path not in without})


def test_what_is_installed_gets_its_label_with_the_directories_that_were_made(tmp_path: Path) -> None:
    host = hosted(tmp_path)
    Installation(host, check=False).hook(hook_files({"one": {}}, None, "/usr/bin/python3"))
    (labelled,) = (command for command in host.commands if command[0] == RESTORECON[0])
    assert labelled[1] == "--"
    assert {HOOK, START, LIBVIRT.file("one"), RUNNER, ROOT, LIBVIRT.machines} <= set(labelled)
    assert not {"/etc", "/etc/libvirt", "/usr/local/lib"} & set(labelled)  # which were there
    host.commands.clear()
    Installation(host, check=False).hook(hook_files({"one": {}}, {}, "/usr/bin/python3"))
    assert (RESTORECON[0], "--", LIBVIRT.default) in host.commands
    host.commands.clear()
    Installation(host, check=False).hook(hook_files({"one": {}}, {}, "/usr/bin/python3"))
    Installation(host, check=False).unhook()
    assert not [command for command in host.commands if command[0] == RESTORECON[0]]


@pytest.mark.parametrize("without", [f"{SELINUX}/enforce", RESTORECON[0]])
def test_a_host_without_selinux_or_its_tools_runs_nothing(tmp_path: Path, without: str) -> None:
    host = hosted(tmp_path, without)
    Installation(host, check=False).hook(hook_files({}, {}, "/usr/bin/python3"))
    assert host.exists(HOOK) and not [command for command in host.commands if "restorecon" in command[0]]


def test_check_mode_labels_nothing(tmp_path: Path) -> None:
    host = hosted(tmp_path)
    assert Installation(host, check=True).hook(hook_files({}, {}, "/usr/bin/python3"))
    assert not host.commands


def test_a_label_that_is_refused_undoes_the_installation(tmp_path: Path) -> None:
    host = hosted(tmp_path)
    host.answers["--"] = (255, "", "restorecon: Operation not permitted")
    with pytest.raises(Refused, match="Operation not permitted"):
        Installation(host, check=False).hook(hook_files({}, {}, "/usr/bin/python3"))
    assert not host.exists(HOOK) and not host.exists(RUNNER) and not host.exists(ROOT)


@pytest.mark.parametrize(
    ("enforcing", "boolean", "confined"),
    [
        ("1", "0 0", True),
        ("1", "0 1", True),  # not committed yet
        ("1", "1 1", False),
        ("1", None, False),  # a policy that does not confine libvirt
        ("0", "0 0", False),
        (None, None, False),
    ],
)
def test_when_a_boolean_is_missing(tmp_path: Path, enforcing: str, boolean: str, confined: bool) -> None:
    files = {f"{SELINUX}/enforce": enforcing, f"{SELINUX}/booleans/virt_hooks_unconfined": boolean}
    host = FakeHost(str(tmp_path), {path: text for path, text in files.items() if text is not None})
    assert confines_hooks(host) is confined
