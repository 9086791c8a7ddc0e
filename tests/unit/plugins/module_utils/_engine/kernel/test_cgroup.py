# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cgroup hierarchy, on real files."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.cgroup import Cgroups
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.cpuset_v2 import CpusetList
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.hierarchy import find
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.systemd import Systemd, unit_of
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

V2 = "25 22 0:24 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n"
HYBRID = (
    "30 22 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    "31 22 0:26 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


def cgroups(tmp_path: Path, files: Dict[str, str]) -> Cgroups:
    host = FakeHost(str(tmp_path), files)
    return find(host, Systemd(host))


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


def test_the_place_of_a_task_is_told_as_seen_from_what_is_mounted(tmp_path: Path) -> None:
    files = {
        "/proc/self/mountinfo": "31 22 0:26 /docker/box /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n",
        "/proc/7/cgroup": "4:memory:/x\n3:cpu,cpuset:/docker/box/a:b\n0::/y\n",
        "/proc/8/cgroup": "3:cpu,cpuset:/docker/box\n",
        "/proc/9/cgroup": "3:cpu,cpuset:/docker/boxes\n",
    }
    found = cgroups(tmp_path, files)
    assert [found.place(task) for task in (7, 8, 9, 10)] == ["/a:b", "/", None, None]


def test_without_a_cpuset_controller_the_sentence_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(IsolationError, match="enable CONFIG_CPUSETS"):
        cgroups(tmp_path, {"/proc/self/mountinfo": ""}).file("/a")


def test_walking_meets_parents_first(tmp_path: Path) -> None:
    files = {
        "/proc/self/mountinfo": V2,
        "/sys/fs/cgroup/cgroup.controllers": "cpuset",
        "/sys/fs/cgroup/cgroup.procs": "",
    }
    files.update({f"/sys/fs/cgroup/{path}/cgroup.procs": "" for path in ("a", "a/b", "a/b/c", "d")})
    walked = dict(cgroups(tmp_path, files).walk())
    assert walked == {"/": ["/a", "/d"], "/a": ["/a/b"], "/a/b": ["/a/b/c"], "/a/b/c": [], "/d": []}
    assert next(iter(walked)) == "/" and list(walked).index("/a") < list(walked).index("/a/b")


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
