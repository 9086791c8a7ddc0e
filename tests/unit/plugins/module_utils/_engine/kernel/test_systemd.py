# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which cgroups are units."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.systemd import unit_of


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
