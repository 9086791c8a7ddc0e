# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A corner of this machine's own cgroup v1 cpuset hierarchy, which the engine takes for the whole of a host.

It sees what it would see in a container that has only this corner mounted. Nothing outside of the corner is touched:
no other cpuset, no interrupt, no governor, and no task but those that a test puts into it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from typing import Callable, Dict, Iterator, List, Optional, Set

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import Refused
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.host import Host

OWN = "/run/vfio-isolation"
PF_EXITING = 0x4  # include/linux/sched.h

V1 = r" / (\S+) rw\S* .*- cgroup \S+ \S*\bcpuset\b"
V2 = r" / (\S+) rw\S* .*- cgroup2 "


def mounted(hierarchy: str = V1) -> str:
    """Where this machine has a hierarchy; empty where it has none that may be written."""
    with open("/proc/self/mountinfo", encoding="utf-8") as stream:
        for line in stream:
            match = re.search(hierarchy, line)
            if match and os.access(match.group(1), os.W_OK) and os.geteuid() == 0:
                return match.group(1)
    return ""


def until(condition: Callable[[], bool]) -> None:
    """Wait for what other processes do; fail where it does not come about."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it did not come about within 30 s"
        time.sleep(0.01)


class Corner(Host):
    """The host, on cgroup v1. `watch` is called after each write; `refuse` before it: an errno to fail with, or 0."""

    tasks_file = "tasks"

    def __init__(self, mount: str, own: str) -> None:
        super().__init__("/", wrote=self._wrote_one)
        self.own = own
        self.mount = f"{mount}/vfio-isolation-test-{os.getpid()}"
        self.watch: Optional[Callable[[str], None]] = None
        self.refuse: Optional[Callable[[str], int]] = None
        self.log: List[str] = []
        self.children: Dict[int, subprocess.Popen] = {}
        os.mkdir(self.mount)
        self._furnish(mount)

    def _furnish(self, mount: str) -> None:
        for name in ("cpuset.cpus", "cpuset.mems"):
            with open(f"{mount}/{name}", encoding="ascii") as stream:
                self.put(f"/{name}", stream.read())
        self.cpus = self.get("/cpuset.cpus")

    def _wrote_one(self, what: str) -> None:
        self.log.append(what)
        if self.watch:
            self.watch(what)

    # What the engine sees

    def path(self, path: str) -> str:
        return path.replace(OWN, self.own, 1) if path.startswith(OWN) else path

    def exists(self, path: str) -> bool:
        return path != "/run/systemd/system" and super().exists(path)

    def read(self, path: str) -> Optional[str]:
        if path == "/proc/self/mountinfo":
            inside = self.mount.rpartition("/")[2]
            return f"35 31 0:32 /{inside} {self.mount} rw,relatime - cgroup cgroup rw,cpuset"
        return super().read(path)

    def write(self, path: str, value: str, keep_open: bool = False) -> None:
        assert path.startswith(self.mount + "/"), f"a write outside of the corner: {path}"
        code = self.refuse(path) if self.refuse else 0
        if code:
            raise Refused.of(OSError(code, ""), path, value)
        super().write(path, value, keep_open)

    # What a test sees and does, by other code than the engine's

    def get(self, name: str) -> str:
        """A file of the corner."""
        with open(self.mount + name, encoding="ascii") as stream:
            return stream.read().rstrip("\n")

    def put(self, name: str, value: str) -> None:
        """Write a file of the corner."""
        with open(self.mount + name, "w", encoding="ascii") as stream:
            stream.write(value)

    def make(self, name: str) -> None:
        """Make a cpuset with all CPUs and nodes of its parent."""
        os.mkdir(self.mount + name)
        for file in ("cpuset.mems", "cpuset.cpus"):
            self.put(f"{name}/{file}", self.get(f"{os.path.dirname(name).rstrip('/')}/{file}"))

    def start(self, cgroup: str = "", cpus: str = "", script: str = "exec sleep 1000") -> int:
        """Start a process in a cpuset of the corner, bound to CPUs; its id."""
        enter = f"echo $$ > {self.mount}{cgroup}/cgroup.procs; {f'taskset -pc {cpus} $$ > /dev/null; ' if cpus else ''}"
        child = subprocess.Popen(
            ["/bin/sh", "-c", f"{enter} echo; {script}"], stdout=subprocess.PIPE, start_new_session=True
        )
        assert child.stdout and child.stdout.readline() == b"\n"
        self.children[child.pid] = child
        return child.pid

    def tasks(self, cgroup: str = "") -> Set[int]:
        """The threads of a cpuset that run on: one that exits is listed for a while, and stays where it is."""
        return {task for task in self._listed(cgroup) if not self._exits(task)}

    def _listed(self, cgroup: str) -> Set[int]:
        return {int(task) for task in self.get(f"{cgroup}/{self.tasks_file}").split()}

    @staticmethod
    def _exits(task: int) -> bool:
        try:
            with open(f"/proc/{task}/stat", encoding="utf-8", errors="replace") as stream:
                fields = stream.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return bool(int(fields[6]) & PF_EXITING) and int(fields[17]) < 2  # the leader of other threads stays a process

    def lasting(self, cgroup: str = "") -> Set[int]:
        """The tasks of a cpuset that end only with the corner: what was started, and every `sleep 1000`.

        Not the shells and the short sleeps between two forks, which may be gone at the next look.
        """
        return {task for task in self.tasks(cgroup) if task in self.children or self._command(task) == "sleep 1000"}

    @staticmethod
    def _command(task: int) -> str:
        try:
            with open(f"/proc/{task}/cmdline", encoding="utf-8") as stream:
                return stream.read().rstrip("\0").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def snapshot(self) -> Dict[str, str]:
        """Every file of the corner that can be set, the place and the affinity of every task."""
        state = {}
        for directory, _names, files in os.walk(self.mount):
            inside = directory[len(self.mount) :]
            for name in files:
                if name.startswith("cpuset.") and "pressure" not in name:
                    state[f"{inside}/{name}"] = self.get(f"{inside}/{name}")
            for task in self.tasks(inside):
                state[f"task {task}"] = f"{inside} {sorted(os.sched_getaffinity(task))}"
        return state

    def close(self) -> None:
        """End what was started, and remove the corner."""
        for _round in range(100):
            tasks = {
                task for directory, _n, _f in os.walk(self.mount) for task in self._listed(directory[len(self.mount) :])
            }
            for task in tasks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(task, signal.SIGKILL)
            for child in self.children.values():
                child.poll()
            if not tasks:
                break
            time.sleep(0.02)
        for child in self.children.values():
            child.stdout.close()
        for directory, _names, _files in os.walk(self.mount, topdown=False):
            os.rmdir(directory)


class UnifiedCorner(Corner):
    """A corner of the cgroup v2 hierarchy that is mounted beside it: processes move as they do with a cpuset there."""

    tasks_file = "cgroup.procs"

    def _furnish(self, mount: str) -> None:
        pass

    def make(self, name: str) -> None:
        """Make a cgroup."""
        os.mkdir(self.mount + name)

    def read(self, path: str) -> Optional[str]:
        if path == "/proc/self/mountinfo":
            inside = self.mount.rpartition("/")[2]
            return f"41 31 0:38 /{inside} {self.mount} rw,relatime - cgroup2 cgroup2 rw"
        return "cpuset" if path == f"{self.mount}/cgroup.controllers" else super().read(path)


@contextlib.contextmanager
def corner(unified: bool = False) -> Iterator[Corner]:
    """A new corner, which is gone at the end."""
    with tempfile.TemporaryDirectory() as own:
        host = UnifiedCorner(mounted(V2), own) if unified else Corner(mounted(), own)
        try:
            yield host
        finally:
            host.close()
