# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cgroup v2 hierarchy: cgroups come and go, their controller is switched, processes move."""

from __future__ import annotations

import errno
from typing import Any, Dict, List, Optional

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cpusets import (
    Cgroup,
    Cpusets,
    parent_of,
    split,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.files import Files
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import (
    Difference,
    Part,
    Parts,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.threads import Threads
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    DEADLINE,
    FIXED,
    KERNEL_THREAD,
    Baseline,
    os_error,
)

MOUNTS = (
    f"22 1 0:20 / /sys rw - sysfs sysfs rw\n25 22 0:24 / {CGROUP} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
)


class Cgroups(Part):
    """What is the same for every controller; the tree itself is that of `Cpusets`."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self._cpusets = parts[Cpusets]
        self._threads = parts[Threads].threads
        self.cgroups = self._cpusets.cgroups
        parts[Files].files["/proc/self/mountinfo"] = MOUNTS

    def make(self, path: str) -> None:
        """A new cgroup."""
        self.cgroups[path] = Cgroup()

    def remove(self, path: str) -> None:
        """A cgroup ends with all that is in it, as a unit that stops."""
        for child in self._cpusets.children(path):
            self.remove(child)
        with self._cpusets.changing():
            for thread in [number for number, task in self._threads.items() if task.cgroup == path]:
                del self._threads[thread]
            group = self.cgroups[path]
            group.cpus, group.partition, group.invalid = frozenset(), "member", ""
        del self.cgroups[path]

    def set_controller(self, path: str, word: str) -> None:
        """cgroup.subtree_control: `+cpuset` or `-cpuset`."""
        if word not in ("+cpuset", "-cpuset"):
            raise os_error(errno.EINVAL)
        if path != "/" and not self.cgroups[parent_of(path)].controller:
            raise os_error(errno.ENOENT)
        if word == "-cpuset" and any(self.cgroups[child].controller for child in self._cpusets.children(path)):
            raise os_error(errno.EBUSY)
        with self._cpusets.changing(unnoticed=self._cpusets.unnoticed(path) if word == "-cpuset" else ()):
            self.cgroups[path].controller = word == "+cpuset"
            if word == "-cpuset":
                for child in self._cpusets.children(path):
                    self.cgroups[child] = Cgroup()

    def _move(self, path: str, thread: int) -> None:
        if thread not in self._threads:
            raise os_error(errno.ESRCH)
        task = self._threads[thread]
        if task.flags & (KERNEL_THREAD | FIXED):
            raise os_error(errno.EINVAL)
        if task.policy == DEADLINE:
            raise os_error(errno.EBUSY)
        before, effective = self._cpusets.effective(task.cgroup), self._cpusets.effective(path)
        task.cgroup = path
        if before != effective or not self._cpusets.remembers:
            task.reset(effective, self._cpusets.remembers)

    # The files

    def read(self, path: str) -> Optional[str]:
        cgroup, name = split(path)
        if cgroup not in self.cgroups:
            return None
        threads = [str(number) for number, task in sorted(self._threads.items()) if task.cgroup == cgroup]
        answers = {
            "cgroup.controllers": "cpuset cpu io memory pids",
            "cgroup.subtree_control": "cpuset cpu" if self.cgroups[cgroup].controller else "cpu",
            "cgroup.procs": "\n".join(threads),
            "cgroup.threads": "\n".join(threads),
        }
        if cgroup != "/":
            answers["cgroup.events"] = f"populated {int(self._cpusets.populated(cgroup))}\nfrozen 0"
        return answers.get(name)

    def list(self, path: str) -> Optional[List[str]]:
        cgroup = path[len(CGROUP) :].rstrip("/") or "/"
        if not path.startswith(CGROUP) or cgroup not in self.cgroups:
            return None
        return sorted(child.rpartition("/")[2] for child in self._cpusets.children(cgroup))

    def write(self, path: str, value: str) -> bool:
        cgroup, name = split(path)
        if cgroup not in self.cgroups or name not in ("cgroup.subtree_control", "cgroup.procs"):
            return False
        if name == "cgroup.procs":
            self._move(cgroup, int(value))
        else:
            self.set_controller(cgroup, value)
        return True

    def make_directory(self, path: str) -> bool:
        if not path.startswith(CGROUP + "/"):
            return False
        if parent_of(path[len(CGROUP) :]) not in self.cgroups:
            raise os_error(errno.ENOENT)
        self.make(path[len(CGROUP) :])
        return True

    def remove_directory(self, path: str) -> bool:
        if not path.startswith(CGROUP + "/"):
            return False
        if self._cpusets.populated(path[len(CGROUP) :]) or self._cpusets.children(path[len(CGROUP) :]):
            raise os_error(errno.EBUSY)
        self.remove(path[len(CGROUP) :])
        return True

    def snapshot(self) -> Dict[str, Any]:
        files = [f"{CGROUP}{'' if path == '/' else path}/cgroup.subtree_control" for path in self.cgroups]
        return {file: self.read(file) for file in files}

    @staticmethod
    def address(seen: Difference) -> Optional[str]:
        cgroup, name = split(seen.line)
        if name != "cgroup.subtree_control":
            return None
        return f"cgroup.controller:{cgroup}" if None not in (seen.old, seen.new) else f"cgroup.exists:{cgroup}"
