# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kinds whose value is one file, on real files."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import Refused
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.stages import Stage, Write
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.sysfs import (
    CpuList,
    CpuMask,
    Number,
    SysfsFile,
    Word,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import format_list
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from hypothesis import given
from hypothesis import strategies as st


def at(name: str) -> str:
    """The file of a name."""
    return f"/sys/things/{name}/value"


def host_with(tmp_path: Path, text: str) -> FakeHost:
    """A host where the thing a1 holds this."""
    return FakeHost(str(tmp_path), {at("a1"): text})


@pytest.mark.parametrize(
    ("kind", "text", "value", "new", "written"),
    [
        (Number, "42\n", "42", "7", "7"),
        (Word, "schedutil\n", "schedutil", "performance", "performance"),
        (CpuList, "0-1,2,5\n", "0-2,5", "0-3", "0-3"),
        (CpuList, "\n", "", "1", "1"),
        (CpuMask, "ff\n", "0-7", "0-3,33", "2,0000000f"),
        (CpuMask, "1,00000000\n", "32", "0", "1"),
        (CpuMask, "0\n", "", "4", "10"),
    ],
)
def test_a_value_is_read_and_written_as_the_file_has_it(
    tmp_path: Path, kind: type, text: str, value: str, new: str, written: str
) -> None:
    host = host_with(tmp_path, text)
    setting = kind(host, "things", "a[0-9]", at)
    assert setting.read("a1") == value and setting.read("a2") is None
    host.put(at("a1"), "")  # the kernel takes no more than one write
    setting.write("a1", new)
    assert host.read(at("a1")) == written and setting.read("a1") == new
    assert host.log == [f"{at('a1')} = {written}"]


@given(st.frozensets(st.integers(0, 300)))
def test_a_mask_and_a_list_hold_any_cpus(cpus: frozenset) -> None:
    host = FakeHost("/", {})
    for kind in (CpuList, CpuMask):
        setting = kind(host, "things", "", at)
        assert setting.parsed(setting.formatted(format_list(cpus))) == format_list(cpus)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Number, ["0", "42"], ["", "-1", "+1", "1.5", "0x1", "²", "٣", "1\n", " 1", "a"]),
        (Word, ["schedutil", "balance_power", "a-1"], ["", "a b", "a/b", "a\n", "é", "a.b"]),
        (CpuList, ["", "0", "0-3,7"], ["x", "3-1", "²", "0-99999999999"]),
        (CpuMask, ["", "0", "0-3,7"], ["ff", "x", "٣"]),
    ],
)
def test_only_what_the_file_may_hold_is_a_saved_value(tmp_path: Path, kind: type, good: list, bad: list) -> None:
    setting = kind(host_with(tmp_path, ""), "things", "a[0-9]", at)
    assert [value for value in [*good, *bad] if setting.valid_value(value)] == good


def test_a_name_is_valid_as_a_whole(tmp_path: Path) -> None:
    setting = Number(host_with(tmp_path, ""), "things", r"a\d|b", at)
    names = ["a1", "b", "", "a", "a1b", "xa1", "a1/../a2", "a1\n", "bb", "a٣"]
    assert [name for name in names if setting.valid_name(name)] == ["a1", "b"]


def test_a_file_has_a_family_a_stage_and_a_path(tmp_path: Path) -> None:
    host = host_with(tmp_path, "1")
    first, second = SysfsFile(host, "things", "a1", at), SysfsFile(host, "other", "a1", at, Stage.DEPENDENT)
    assert first.writes("a1", "1", "2") == [Write(Stage.SET, "2")]
    assert second.writes("a1", "1", "2") == [Write(Stage.DEPENDENT, "2")]
    assert (first.family, second.family, first.where("a1")) == ("things", "other", at("a1"))


def test_a_refused_write_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"/sys/things/a2/value refused '1': .*ENOENT"):
        Number(host_with(tmp_path, ""), "things", "a[0-9]", at).write("a2", "1")
