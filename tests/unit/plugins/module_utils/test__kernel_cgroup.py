# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cgroup hierarchy, on real files."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._kernel.cgroup import Cgroups
from ansible_collections.vfio.isolation.plugins.module_utils._kernel.cpuset import CpusetList
from ansible_collections.vfio.isolation.plugins.module_utils._kernel.systemd import Systemd, unit_of
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils.fake_host import FakeHost

V2 = "25 22 0:24 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n"
HYBRID = (
    "30 22 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    "31 22 0:26 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


def cgroups(tmp_path: Path, files: Dict[str, str]) -> Cgroups:
    host = FakeHost(str(tmp_path), files)
    return Cgroups(host, Systemd(host))


@pytest.mark.parametrize(
    ("mounts", "controllers", "version"), [(V2, "cpuset cpu", 2), (V2, "cpu", 0), (HYBRID, "", 1), ("", "", 0)]
)
def test_the_version_is_that_of_the_hierarchy_with_the_cpuset_controller(
    tmp_path: Path, mounts: str, controllers: str, version: int
) -> None:
    files = {"/proc/self/mountinfo": mounts, "/sys/fs/cgroup/cgroup.controllers": controllers}
    assert cgroups(tmp_path, files).version() == version


def test_without_cgroup_v2_the_sentence_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(IsolationError, match=r"boot it with systemd\.unified_cgroup_hierarchy=1"):
        cgroups(tmp_path, {"/proc/self/mountinfo": HYBRID}).file("/a")


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
