# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which cgroup CPUs can be reserved for."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted


def test_a_cgroup_among_services_is_refused() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        inside = step("reserve_cpus", cpus="4-5", cgroup="/system.slice/system-vm.slice")
        with pytest.raises(IsolationError, match=r"is below /system\.slice, where /system\.slice/a\.service runs, too"):
            engine(kernel).apply("vm", [inside])
        assert kernel.snapshot() == before
