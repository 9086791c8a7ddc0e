# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""cgroup v1: the cpuset hierarchy, which nobody but its users and libvirt writes to.

Source: Documentation/admin-guide/cgroup-v1/cpusets.rst.
"""

from __future__ import annotations

from typing import List

from .cgroup import Cgroups
from .host import Host
from .systemd import Systemd


class CgroupsV1(Cgroups):
    """A hierarchy in which every thread has its own cgroup, and a cpuset without CPUs or nodes accepts no task."""

    version = 1
    inherits = False
    movable = "tasks"
    effective_file = "cpuset.effective_cpus"

    def __init__(
        self, host: Host, systemd: Systemd, mount: str, root: str, controllers: str, short_names: bool = False
    ) -> None:
        super().__init__(host, systemd, mount, root, controllers)
        # As the old file system `cpuset` mounts it (cpuset(7)): `cpus` for `cpuset.cpus`.
        self._short_names = short_names

    def file(self, cgroup: str, name: str = "") -> str:
        """The path of a cgroup's directory, or of a file in it."""
        if self._short_names and name.startswith("cpuset."):
            name = name[len("cpuset.") :]
        return super().file(cgroup, name)

    def threads(self, cgroup: str) -> List[int]:
        """The threads of a cgroup, without those below it."""
        return self.tasks(cgroup)

    def threads_of(self, task: int) -> List[int]:
        """The thread alone."""
        return [task]

    def populated(self, cgroup: str) -> bool:
        """Whether anything runs in a cgroup or below it."""
        return any(self.tasks(path) for path, _children in self.walk(cgroup))
