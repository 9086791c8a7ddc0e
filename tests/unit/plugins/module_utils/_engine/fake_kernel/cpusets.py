# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cpusets of the cgroup v2 hierarchy: whose CPUs are whose, partitions, and what a change does to threads."""

from __future__ import annotations

import contextlib
import errno
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import (
    Difference,
    Part,
    Parts,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.threads import (
    Thread,
    Threads,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import (
    POSSIBLE,
    Topology,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    KERNEL_THREAD,
    Baseline,
    Cpus,
    numbers,
    os_error,
    text_of,
)


class Cgroup:
    """One cgroup. `cpus` and the rest only count while the parent has the controller on."""

    def __init__(self) -> None:
        self.controller = False
        self.cpus: Cpus = frozenset()
        self.mems: Cpus = frozenset()
        self.partition = "member"
        self.invalid = ""


def parent_of(path: str) -> str:
    """The cgroup above one."""
    return path.rpartition("/")[0] or "/"


def split(path: str) -> Tuple[str, str]:
    """The cgroup that a file is of, and the file's name; empty where it is no cgroup's file."""
    directory, _slash, name = path[len(CGROUP) :].rpartition("/")
    return (directory or "/", name) if path.startswith(CGROUP + "/") else ("", "")


class Cpusets(Part):
    """The tree of cgroups, by path, and the controller `cpuset` of each; the root is `/`."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self._topology = parts[Topology]
        self._threads = parts[Threads].threads
        self.remembers = baseline.remembers
        self._isolated_only = baseline.isolated_only
        self.cgroups: Dict[str, Cgroup] = {"/": Cgroup()}

    def children(self, path: str) -> List[str]:
        """The cgroups in one."""
        return [child for child in self.cgroups if child != "/" and parent_of(child) == path]

    def populated(self, path: str) -> bool:
        """Whether a task runs in or below a cgroup."""
        return any((task.cgroup + "/").startswith(path + "/") for task in self._threads.values())

    # What the kernel makes of cpusets

    def has_cpuset(self, path: str) -> bool:
        """Whether a cgroup has files of the controller: the root's are not to be written."""
        return path == "/" or self.cgroups[parent_of(path)].controller

    def _css(self, path: str) -> str:
        """The nearest cgroup that has a cpuset."""
        while not self.has_cpuset(path):
            path = parent_of(path)
        return path

    def _valid_partition(self, path: str) -> bool:
        group = self.cgroups[path]
        return self.has_cpuset(path) and group.partition != "member" and not group.invalid

    def effective(self, path: str) -> Cpus:
        """cpuset.cpus.effective of the cpuset that a cgroup is in."""
        path = self._css(path)
        group = self.cgroups[path]
        if path == "/":
            mine = self._topology.online
        elif self._valid_partition(path):
            mine = group.cpus & self._topology.online
        else:
            above = self.effective(parent_of(path))
            mine = (group.cpus & above) or above
        return mine - self._taken(path)

    def _taken(self, path: str, kinds: Sequence[str] = ("root", "isolated")) -> Cpus:
        """The CPUs that the partitions of these types in a cgroup have."""
        partitions = [self.cgroups[child] for child in self.children(path) if self._valid_partition(child)]
        return frozenset().union(*(child.cpus for child in partitions if child.partition in kinds))

    def effective_of(self, task: Thread) -> Cpus:
        """The CPUs that a thread may have."""
        if self._isolated_only and task.flags & KERNEL_THREAD and task.cgroup == "/":
            return self._topology.online - self._taken("/", ["isolated"])
        return self.effective(task.cgroup)

    def allowed(self, path: str) -> Cpus:
        """What a thread has that is bound to nothing: in the root also CPUs that are offline."""
        return POSSIBLE - self._taken("/") if self._css(path) == "/" else self.effective(path)

    def _why_invalid(self, path: str) -> str:
        group = self.cgroups[path]
        above = parent_of(path)
        siblings = [child for child in self.children(above) if child != path]
        if not group.cpus:
            return "cpuset.cpus is empty"
        if any(self.cgroups[sibling].cpus & group.cpus for sibling in siblings):
            return "Cpu list in cpuset.cpus not exclusive"
        if above != "/" and not self._valid_partition(above):
            return "Parent is not a partition root"
        if (not self.effective(above) - group.cpus and not self._valid_partition(path)) or not self.effective(above):
            return "Parent unable to distribute cpu downstream"
        return ""

    def unnoticed(self, path: str) -> Sequence[int]:
        """The threads that keep their CPUs when the controller is switched off in a cgroup.

        Since Linux 6.2, cpuset_attach() compares where all threads go to with where the first one comes from.
        """
        inside = path.rstrip("/") + "/"
        moved = [n for n, task in sorted(self._threads.items()) if task.cgroup.startswith(inside)]
        first = self._css(self._threads[moved[0]].cgroup) if moved else path
        return moved if self.remembers and self.effective(first) == self.effective(path) else ()

    @contextlib.contextmanager
    def changing(self, hotplug: bool = False, unnoticed: Sequence[int] = ()) -> Iterator[None]:
        """Whatever changes in here, the threads of each cpuset whose CPUs changed are reset, but for the unnoticed.

        If CPUs go offline or come online, those of the root are left alone.
        """
        before = {thread: (self._css(t.cgroup), self.effective_of(t)) for thread, t in self._threads.items()}
        yield
        for path in sorted(self.cgroups):
            if self._valid_partition(path):
                self.cgroups[path].invalid = self._why_invalid(path)
        for thread, task in self._threads.items():
            if thread in unnoticed:
                continue
            css, effective = self._css(task.cgroup), self.effective_of(task)
            if hotplug and css == "/":
                if not task.cpus & effective:
                    task.reset(POSSIBLE, False)  # none of its CPUs is left, see do_set_cpus_allowed()
                    task.asked = None
                continue
            if css == "/" != before[thread][0]:
                task.reset(self.allowed(css), self.remembers and bool(task.cpus & self._topology.online))
            elif effective != before[thread][1] or (css != before[thread][0] and not self.remembers):
                task.reset(effective, self.remembers)

    # What is written

    def set_cpus(self, path: str, cpus: Cpus) -> None:
        """cpuset.cpus."""
        if not self.has_cpuset(path) or path == "/":
            raise os_error(errno.ENOENT)
        if cpus - POSSIBLE:
            raise os_error(errno.EINVAL)
        if self.cgroups[path].cpus and not cpus and self.populated(path):
            raise os_error(errno.ENOSPC)
        with self.changing():
            self.cgroups[path].cpus = cpus

    def set_partition(self, path: str, kind: str) -> None:
        """cpuset.cpus.partition."""
        if not self.has_cpuset(path) or path == "/":
            raise os_error(errno.ENOENT)
        if kind not in ("member", "root", "isolated"):
            raise os_error(errno.EINVAL)
        group = self.cgroups[path]
        with self.changing():
            if kind == "member":
                group.partition, group.invalid = kind, ""
            elif group.partition == "member" or (group.invalid and self.remembers):
                group.partition, group.invalid = "member", ""
                why = self._why_invalid(path)
                group.partition, group.invalid = kind, why
            elif not group.invalid:  # on 6.1, writing a type over an invalid one changes nothing
                group.partition = kind

    # The files

    def read(self, path: str) -> Optional[str]:
        cgroup, name = split(path)
        if cgroup not in self.cgroups or not self.has_cpuset(cgroup):
            return None
        group = self.cgroups[cgroup]
        answers = {"cpuset.cpus.effective": text_of(self.effective(cgroup)), "cpuset.mems.effective": "0-1"}
        if cgroup != "/":
            answers["cpuset.cpus"] = text_of(group.cpus)
            answers["cpuset.mems"] = text_of(group.mems)
            invalid = f" invalid ({group.invalid})" if group.invalid else ""
            answers["cpuset.cpus.partition"] = group.partition + invalid
        return answers.get(name)

    def write(self, path: str, value: str) -> bool:
        cgroup, name = split(path)
        if cgroup not in self.cgroups or name not in ("cpuset.cpus", "cpuset.cpus.partition"):
            return False
        if name == "cpuset.cpus":
            self.set_cpus(cgroup, numbers(value))
        else:
            self.set_partition(cgroup, value)
        return True

    def snapshot(self) -> Dict[str, Any]:
        names = ("cpuset.cpus", "cpuset.cpus.effective", "cpuset.mems", "cpuset.cpus.partition")
        directories = [CGROUP + ("" if path == "/" else path) for path in self.cgroups]
        return {f"{directory}/{name}": self.read(f"{directory}/{name}") for directory in directories for name in names}

    @staticmethod
    def address(seen: Difference) -> Optional[str]:
        cgroup, name = split(seen.line)
        nothing = (None, "", "member")  # a cpuset that is not there is one that has all of its parent's
        kinds = {"cpuset.cpus": "cpus", "cpuset.mems": "mems", "cpuset.cpus.partition": "partition"}
        return f"cgroup.{kinds[name]}:{cgroup}" if name in kinds and {seen.old, seen.new} - {*nothing} else None
