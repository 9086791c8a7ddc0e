# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lists of a cpuset on cgroup v2, on real files."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.cpuset_v2 import CpusetList
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.kernel.mounted import V2, cgroups


def test_the_configured_list_is_read_not_the_effective_one(tmp_path: Path) -> None:
    files = {
        "/proc/self/mountinfo": V2,
        "/sys/fs/cgroup/cgroup.controllers": "cpuset",
        "/sys/fs/cgroup/a/cgroup.procs": "",
        "/sys/fs/cgroup/a/cpuset.cpus": "\n",
        "/sys/fs/cgroup/a/cpuset.cpus.effective": "0-7\n",
    }
    assert CpusetList(cgroups(tmp_path, files), "cpuset.cpus", "AllowedCPUs").read("/a") == ""


@pytest.mark.parametrize("name", ["/", "/a", "/a/b.slice"])
def test_paths_below_the_root_are_names(tmp_path: Path, name: str) -> None:
    assert CpusetList(cgroups(tmp_path, {}), "cpuset.cpus", "AllowedCPUs").valid_name(name)


@pytest.mark.parametrize("name", ["", "a", "//", "/a/", "/..", "/a/../b", "/./a", "/a\nb"])
def test_other_paths_are_not(tmp_path: Path, name: str) -> None:
    assert not CpusetList(cgroups(tmp_path, {}), "cpuset.cpus", "AllowedCPUs").valid_name(name)
