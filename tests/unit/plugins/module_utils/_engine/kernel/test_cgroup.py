# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cgroup hierarchy, on real files."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.kernel.mounted import V2, cgroups


def test_the_place_of_a_task_is_told_as_seen_from_what_is_mounted(tmp_path: Path) -> None:
    files = {
        "/proc/self/mountinfo": "31 22 0:26 /docker/box /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n",
        "/proc/7/cgroup": "4:memory:/x\n3:cpu,cpuset:/docker/box/a:b\n0::/y\n",
        "/proc/8/cgroup": "3:cpu,cpuset:/docker/box\n",
        "/proc/9/cgroup": "3:cpu,cpuset:/docker/boxes\n",
    }
    found = cgroups(tmp_path, files)
    assert [found.place(task) for task in (7, 8, 9, 10)] == ["/a:b", "/", None, None]


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
