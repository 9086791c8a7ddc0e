# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lists and the partition of a cpuset on cgroup v2, on real files."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.cpuset_v2 import (
    CpusetList,
    Partition,
)
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


@pytest.mark.parametrize(
    ("state", "granted", "online", "read"),
    [
        ("isolated", "4-7", "0-7", "isolated"),
        ("isolated", "4,6-7", "0-7", "isolated invalid (CPUs 5 are exclusive to others)"),
        ("root", "", "0-7", "root"),  # before Linux 6.7
        ("root", "6-7", "0-3,6-7", "root"),  # what is offline may come back
        ("member", "", "0-7", "member"),
        ("isolated invalid (a reason)", "", "0-7", "isolated invalid (a reason)"),
    ],
)
def test_a_partition_that_lacks_cpus_is_none(tmp_path: Path, state: str, granted: str, online: str, read: str) -> None:
    files = {
        "/proc/self/mountinfo": V2,
        "/sys/devices/system/cpu/online": online + "\n",
        "/sys/fs/cgroup/cgroup.controllers": "cpuset",
        "/sys/fs/cgroup/a/cgroup.procs": "",
        "/sys/fs/cgroup/a/cpuset.cpus": "4-7\n",
        "/sys/fs/cgroup/a/cpuset.cpus.exclusive.effective": granted + "\n",
        "/sys/fs/cgroup/a/cpuset.cpus.partition": state + "\n",
    }
    assert Partition(cgroups(tmp_path, files)).read("/a") == read
