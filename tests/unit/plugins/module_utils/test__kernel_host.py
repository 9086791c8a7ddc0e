# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one door to the host, on real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._errors import Refused
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils.fake_host import FakeHost


def test_reading_takes_the_last_newline_off_and_what_is_not_there_is_none(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/proc/a": "1\n2\n"})
    assert host.read("/proc/a") == "1\n2"
    assert host.read("/proc/b") is None
    assert host.read("/proc") is None


def test_writing_is_one_line_and_is_counted(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/sys/x": ""})
    host.write("/sys/x", "0-3")
    assert host.read("/sys/x") == "0-3"
    assert host.writes == 1 and host.log == ["/sys/x = 0-3"]


def test_a_refused_write_names_file_value_and_errno_and_is_not_counted(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {})
    with pytest.raises(Refused) as error:
        host.write("/sys/x", "0-3")
    assert str(error.value) == "/sys/x refused '0-3': No such file or directory (ENOENT)"
    assert host.writes == 0


def test_saving_replaces_the_file_whole_with_its_mode(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {})
    host.save("/run/x/y", "new\n", 0o600)
    assert host.read("/run/x/y") == "new" and host.list("/run/x") == ["y"]
    assert os.stat(str(tmp_path) + "/run/x/y").st_mode & 0o777 == 0o600


def test_removing_what_is_not_there_is_no_write(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/run/x/y": ""})
    host.remove_empty("/run/x")
    host.remove("/run/x/nothing")
    assert host.writes == 0
    host.remove("/run/x/y")
    host.remove_empty("/run/x")
    assert host.writes == 2 and not host.exists("/run/x")


def test_a_failing_command_is_refused_with_what_it_printed(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {})
    host.answers["start"] = (5, "", "Unit x.slice not found.\n")
    with pytest.raises(Refused, match=r"systemctl start -- refused 'x.slice': Unit x.slice not found."):
        host.change("systemctl", "start", "--", "x.slice")
    assert host.writes == 0
    assert host.ask("systemctl", "start") is None
