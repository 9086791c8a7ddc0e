# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which cgroup CPUs can be reserved for."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.single_step import refused


def test_a_cgroup_among_services_is_refused() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        inside = step("reserve_cpus", cpus="4-5", cgroup="/system.slice/system-vm.slice")
        with pytest.raises(IsolationError, match=r"is below /system\.slice, where /system\.slice/a\.service runs, too"):
            engine(kernel).apply("vm", [inside])
        assert kernel.snapshot() == before


@pytest.mark.parametrize("strategy", ["partition", "slices"])
def test_a_host_cgroup_that_is_no_path_is_refused_by_every_strategy(strategy: str) -> None:
    """A claim that has it could not be reverted."""
    for path in ("\ud800", "/../x", "a\0b"):
        said = refused("reserve_cpus", cpus="4-5", strategy=strategy, host_cgroup=path)
        assert said.startswith("host_cgroup: ") and "is not the path of a cgroup" in said


@pytest.mark.parametrize(
    ("cgroup", "place"),
    [("/a-b.slice", "/a.slice/a-b.slice"), ("/-a.slice", "nowhere"), ("/x.slice/y.slice", "/y.slice")],
)
def test_a_slice_that_systemd_would_make_elsewhere_is_refused(cgroup: str, place: str) -> None:
    said = refused("reserve_cpus", cpus="4-5", cgroup=cgroup, strategy="partition")
    assert f"{cgroup} cannot be made: systemd has " in said and f" at {place}; " in said
