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
