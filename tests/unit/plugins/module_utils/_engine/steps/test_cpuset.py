# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cpuset: what its operations make of it, and which cannot be."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import CGROUP
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.single_step import refused


def test_cpuset_operations() -> None:
    with booted() as kernel:
        engine(kernel).extend("c", step("cpuset", path="/held.slice", cpus="2-5"))
        assert kernel.read(f"{CGROUP}/held.slice/cpuset.cpus") == "2-5"
        engine(kernel).extend("c", step("cpuset", path="/held.slice", cpus="C6", operation="add"))
        assert kernel.read(f"{CGROUP}/held.slice/cpuset.cpus") == "2-6"
        engine(kernel).extend("c", step("cpuset", path="/held.slice", cpus="2-3", operation="mask"))
        assert kernel.read(f"{CGROUP}/held.slice/cpuset.cpus") == "4-6"
        with pytest.raises(IsolationError, match="the cpuset would be empty"):
            engine(kernel).extend("c", step("cpuset", path="/held.slice", cpus="4-6", operation="mask"))
        engine(kernel).revert()
        assert not kernel.exists(f"{CGROUP}/held.slice")


def test_a_cpuset_is_removed_and_comes_back() -> None:
    with booted() as kernel:
        engine(kernel).once(step("cpuset", path="/held.slice", cpus="2-3"))
        gone = engine(kernel).once(step("cpuset", path="/held.slice", state="absent"))
        assert gone.changed and not kernel.exists(f"{CGROUP}/held.slice")
        assert not engine(kernel).once(step("cpuset", path="/held.slice", state="absent")).changed


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "/", "cpus": "1"}, "name a cgroup below it"),
        ({"path": "/../x", "cpus": "1"}, "not the path of a cgroup"),
        ({"path": "/held.slice", "memory_migrate": True}, "memory_migrate: /held.slice is on cgroup v2"),
        ({"path": "/loose", "cpus": "1"}, "call it /loose.slice"),
        ({"path": "/gone.service", "cpus": "1"}, "only a .slice can be created"),
        ({"path": "/held.slice", "mems": "N9"}, "there is no NUMA node 9"),
        ({"path": "/held.slice", "mems": "N0N1"}, "mems: 'N0N1': expected a number"),
        ({"path": "/held.slice", "state": "absent", "cpus": "1"}, "absent cannot have cpus"),
        ({"path": "/system.slice/a.service", "state": "absent"}, "is a running systemd unit"),
    ],
)
def test_a_cpuset_that_cannot_be_is_refused(given: dict, words: str) -> None:
    assert words in refused("cpuset", **given)
