# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which cgroups are units."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.systemd import RUNTIME, Systemd, unit_of
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("/machine.slice", "machine.slice"),
        ("/user.slice/user-1.slice", "user-1.slice"),
        ("/init.scope", "init.scope"),
        ("/system.slice/a.service", "a.service"),
        ("/host", None),
        ("/a.service/b.slice", None),
        ("/x/y.slice", None),
        ("/system.slice/a b.service", None),
    ],
)
def test_a_unit_owns_its_own_cgroup_and_nothing_below_a_service(cgroup: str, unit: str) -> None:
    assert unit_of(cgroup) == unit


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (("", "0-3"), "0-3"),
        (("", "0-3", "5 7"), "0-3,5,7"),
        (("0-3", "", "5"), "5"),
        (("0-3", "5", ""), ""),
        (("x", "", "1,3 2"), "1-3"),
        ((), ""),
    ],
)
@pytest.mark.parametrize("equals", ["=", " = "])
def test_lists_of_one_drop_in_add_up_and_an_empty_one_resets_them(
    tmp_path: Path, lines: Tuple[str, ...], value: str, equals: str
) -> None:
    text = "".join(f"AllowedCPUs{equals}{line}\n" for line in lines)
    host = FakeHost(str(tmp_path), {f"{RUNTIME}/a.slice.d/50-AllowedCPUs.conf": f"[Slice]\n#AllowedCPUs=9\n{text}"})
    assert Systemd(host).runtime_value("a.slice", "AllowedCPUs") == value


@pytest.mark.parametrize(
    ("library", "shown", "expected"),
    [
        ("libsystemd-core-262.so", "", True),
        ("libsystemd-shared-261.2-1.fc45.so", "", True),
        ("libsystemd-shared-260.so", "CPUSetPartition=\n", False),  # the files that are installed may be newer
        ("libc.so.6", "CPUSetPartition=\n", True),
        ("libc.so.6", "", False),  # an older systemctl shows nothing of a property that it does not know
    ],
)
def test_whether_a_partition_is_a_property_is_told_by_what_process_1_has_loaded(
    tmp_path: Path, library: str, shown: str, expected: bool
) -> None:
    files = {"/run/systemd/system/x": "", "/proc/1/maps": f"7f00-7f01 r-xp 0 0 0 /usr/lib/x/{library}\n7f02-7f03 rw-p"}
    host = FakeHost(str(tmp_path), files)
    host.answers["show"] = (0, shown, "")
    assert Systemd(host).has_partitions() is expected
    assert [words[:2] for words in host.commands] == ([("systemctl", "show")] if library.startswith("libc") else [])


def test_without_systemd_a_partition_is_no_property(tmp_path: Path) -> None:
    files = {"/proc/1/maps": "7f00-7f01 r-xp 0 0 0 /usr/lib/systemd/libsystemd-core-262.so"}
    assert not Systemd(FakeHost(str(tmp_path), files)).has_partitions()
