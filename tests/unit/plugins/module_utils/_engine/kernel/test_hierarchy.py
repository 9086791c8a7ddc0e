# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which cgroup hierarchy is used, and where it is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.kernel.mounted import V2, cgroups

HYBRID = (
    "30 22 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    "31 22 0:26 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


@pytest.mark.parametrize(
    ("mounts", "controllers", "version"), [(V2, "cpuset cpu", 2), (V2, "cpu", 0), (HYBRID, "", 1), ("", "", 0)]
)
def test_the_version_is_that_of_the_hierarchy_with_the_cpuset_controller(
    tmp_path: Path, mounts: str, controllers: str, version: int
) -> None:
    files = {"/proc/self/mountinfo": mounts, "/sys/fs/cgroup/cgroup.controllers": controllers}
    assert cgroups(tmp_path, files).version == version


@pytest.mark.parametrize(
    ("mounts", "file"),
    [
        (HYBRID, "/sys/fs/cgroup/cpuset/a/cpuset.cpus"),
        ("31 22 0:26 / /dev/cpuset rw - cgroup none rw,cpuset,noprefix\n", "/dev/cpuset/a/cpus"),
        (
            "30 22 0:26 /box /box rw - cgroup cgroup rw,cpuset\n31 22 0:26 / /mnt/all rw - cgroup cgroup rw,cpuset\n",
            "/mnt/all/a/cpuset.cpus",
        ),
        ("31 22 0:26 / /mnt/all\\040of\\040it rw - cgroup cgroup rw,cpu,cpuset\n", "/mnt/all of it/a/cpuset.cpus"),
    ],
)
def test_a_v1_hierarchy_is_used_where_it_is_mounted(tmp_path: Path, mounts: str, file: str) -> None:
    found = cgroups(tmp_path, {"/proc/self/mountinfo": mounts})
    assert found.version == 1 and found.file("/a", "cpuset.cpus") == file


def test_without_a_cpuset_controller_the_sentence_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(IsolationError, match="enable CONFIG_CPUSETS"):
        cgroups(tmp_path, {"/proc/self/mountinfo": ""}).file("/a")
