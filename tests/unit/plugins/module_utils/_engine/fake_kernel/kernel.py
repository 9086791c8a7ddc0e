# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model of a Linux host with systemd, behind the doors of `Host`: small enough to read, whole transactions fit.

What it does on a write is what shared FACTS (Debian 12, Linux 6.1 and 6.12) say that the kernel and systemd do.
It shares no code with the engine but the `Host` that it replaces.

All of it is in memory, but for the engine's own directory under `/run`: the journal and its lock are real files.
"""

from __future__ import annotations

import contextlib
import errno
import re
import tempfile
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Type

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import Refused, Skipped
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.host import Host
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cgroups import Cgroups
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cpufreq import Cpufreq
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cpusets import Cpusets
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.files import Files
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.hugepages import (
    HugepagePools,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.irqbalance import Irqbalance
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.irqs import Irqs
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.memory import Memory
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import (
    Answer,
    Difference,
    P,
    Part,
    Parts,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.systemd import Systemd
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.threads import (
    Thread,
    Threads,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import Topology
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    OWN,
    STOCK,
    Baseline,
    Cpus,
    numbers,
    os_error,
)

# Each looks only at those above it. A new kind of setting is one file beside this one, and one row here.
PARTS: Tuple[Type[Part], ...] = (
    Files,
    Topology,
    Threads,
    Cpusets,
    Cgroups,
    Systemd,
    Irqs,
    Irqbalance,
    Cpufreq,
    Memory,
    HugepagePools,
)


def address_of(seen: Difference) -> Optional[str]:
    """The address of what differs between two snapshots; None for what only follows from others."""
    return next(filter(None, (part.address(seen) for part in PARTS)), None)


class FakeKernel(Host):
    """A host of 8 CPUs and 2 NUMA nodes. `watch` is called after each write, `refuse` before it."""

    def __init__(self, root: str, baseline: Baseline = STOCK) -> None:
        super().__init__(root, run=self._command, wrote=self._wrote_one)
        self.watch: Optional[Callable[[str], None]] = None
        self.refuse: Optional[Callable[[str], Optional[OSError]]] = None
        self.log: List[str] = []
        self._parts = Parts(PARTS, baseline)
        # By short names, what most tests look at.
        self.files, self.folders = self.part(Files).files, self.part(Files).folders
        self.threads = self.part(Threads).threads
        self.cgroups, self.effective = self.part(Cpusets).cgroups, self.part(Cpusets).effective
        self.irqs = self.part(Irqs).affinities
        self.governors, self.preferences = self.part(Cpufreq).governors, self.part(Cpufreq).preferences
        self.acted = self.part(Memory).acted
        self.open_files: Dict[int, List[str]] = {}  # by the process that has them open
        for index, task in enumerate(baseline.tasks):
            self.add_thread(100 + index, task.cgroup, task.affinity, task.flags)

    def part(self, kind: Type[P]) -> P:
        """The part of the model that a kind of setting is in."""
        return self._parts[kind]

    def add_thread(self, thread: int, cgroup: str, affinity: str, flags: int = 0, start: int = 0) -> None:
        """A thread begins, and asks for CPUs."""
        self.threads[thread] = Thread(start or 5000 + thread, cgroup, flags)
        self.threads[thread].begin(numbers(affinity), self.part(Cpusets).allowed(cgroup))

    def add_qemu(self, number: int, cgroup: str, affinity: str, name: str) -> None:
        """A virtual machine begins: a QEMU process of one thread, with KVM. Its cgroup is made where there is none."""
        missing = cgroup
        while missing not in self.cgroups:
            self.part(Cgroups).make(missing)
            missing = missing.rpartition("/")[0] or "/"
        self.add_thread(number, cgroup, affinity)
        self.files["/dev/kvm"] = ""
        self.files[f"/proc/{number}/comm"] = "qemu-system-x86"
        self.files[f"/proc/{number}/cmdline"] = f"/usr/bin/qemu-system-x86_64\0-name\0guest={name}\0-enable-kvm\0"
        self.open_files[number] = ["/dev/null", "/dev/kvm", "anon_inode:kvm-vm"]

    def end_qemu(self, number: int) -> None:
        """A virtual machine ends; its cgroup stays."""
        del self.threads[number], self.open_files[number]
        for name in ("comm", "cmdline"):
            del self.files[f"/proc/{number}/{name}"]

    def hotplug(self, online: Cpus) -> None:
        """From now on, these CPUs are online."""
        with self.part(Cpusets).changing(hotplug=True):
            self.part(Topology).online = online
        for part in self._parts:
            part.hotplug()

    def snapshot(self) -> Dict[str, Any]:
        """Every setting of this host, to compare."""
        return {line: value for part in self._parts for line, value in part.snapshot().items()}

    # The doors: reading

    def read(self, path: str) -> Optional[str]:
        if path.startswith(OWN):
            return super().read(path)
        return next((text for text in (part.read(path) for part in self._parts) if text is not None), None)

    def _names(self, path: str) -> Optional[List[str]]:
        return next((names for names in (part.list(path) for part in self._parts) if names is not None), None)

    def exists(self, path: str) -> bool:
        if path.startswith(OWN):
            return super().exists(path)
        if self.read(path) is not None or self._names(path) is not None:
            return True
        return any(part.exists(path) for part in self._parts)

    def list(self, path: str) -> List[str]:
        return self._names(path) or []

    def links(self, path: str) -> List[str]:
        match = re.match(r"/proc/(\d+)/fd\Z", path)
        return self.open_files.get(int(match.group(1)), []) if match else []

    def directories(self, path: str) -> Optional[List[str]]:
        assert path.startswith(CGROUP), path
        return self._names(path)

    def writable(self, path: str) -> bool:
        return all(part.writable(path) for part in self._parts)

    def probe_errno(self, path: str, text: str) -> int:
        assert text in ("?\n", f"{self.read(path)}\n"), "only what changes nothing may be tried"
        return next(filter(None, (part.probe_errno(path, text) for part in self._parts)), 0)

    def affinity(self, thread: int) -> Optional[Cpus]:
        return self.threads[thread].cpus & self.part(Topology).online if thread in self.threads else None

    # The doors: writing

    def _wrote_one(self, what: str) -> None:
        self.log.append(what)
        if self.watch:
            self.watch(what)

    def _carry_out(self, what: str, path: str, value: str, take: Callable[[Part], bool]) -> None:
        """Let the part whose path it is take a write, unless the test refuses it."""
        try:
            refused = self.refuse and self.refuse(what)
            if refused:
                raise refused
            if not any(take(part) for part in self._parts):
                raise os_error(errno.ENOENT)
        except OSError as error:
            raise Refused.of(error, path, value) from error
        self.note_write(what)

    def write(self, path: str, value: str, keep_open: bool = False) -> None:
        self._carry_out(f"{path} = {value}", path, value, lambda part: part.write(path, value))

    def make_directory(self, path: str) -> None:
        self._carry_out(f"mkdir {path}", path, "mkdir", lambda part: part.make_directory(path))

    def remove_directory(self, path: str) -> None:
        self._carry_out(f"rmdir {path}", path, "rmdir", lambda part: part.remove_directory(path))

    def converse(self, path: str, message: str, answers: bool = True) -> str:
        try:
            refused = self.refuse and not answers and self.refuse(f"{path}: {message}")
            if refused:
                raise refused
            said = next(
                (text for text in (part.converse(path, message) for part in self._parts) if text is not None), None
            )
            if said is None:
                raise os_error(errno.ECONNREFUSED)
        except OSError as error:
            raise Refused.of(error, path, message) from error
        return said if answers else ""

    def _command(self, argv: Sequence[str]) -> Answer:
        answer = next(filter(None, (part.ask(argv) for part in self._parts)), None)
        if answer:
            return answer
        refused = self.refuse and self.refuse(" ".join(argv))
        if refused:
            return 1, "", f"Failed to do it: {refused.strerror}\n"
        done = next(filter(None, (part.change(argv) for part in self._parts)), None)
        assert done, argv
        return done

    def save(self, path: str, text: str, mode: int = 0o644) -> None:
        what = f"saved {path}"
        error = self.refuse and self.refuse(what)
        if error:
            raise Refused.of(error, path, "a new version of the file")
        if path.startswith(OWN):
            super().save(path, text, mode)
        else:
            self.part(Files).put(path, text.rstrip("\n"))
            self.note_write(what)

    def remove(self, path: str) -> None:
        error = self.refuse and self.exists(path) and self.refuse(f"removed {path}")
        if error:
            raise Refused.of(error, path, "its removal")
        if path.startswith(OWN):
            super().remove(path)
        elif self.part(Files).remove(path):
            self.note_write(f"removed {path}")

    def remove_empty(self, path: str) -> None:
        if self.part(Files).remove_empty(path):
            self.note_write(f"removed {path}")

    def set_affinity(self, thread: int, cpus: Cpus) -> None:
        task = self.threads.get(thread)
        if task is None:
            raise Skipped("the thread has ended")
        if not task.ask(cpus, self.part(Cpusets).effective_of(task)):
            raise Skipped("the kernel keeps this thread's affinity (Invalid argument)")
        self.note_write(f"affinity of thread {thread}")


@contextlib.contextmanager
def booted(baseline: Baseline = STOCK) -> Iterator[FakeKernel]:
    """A fake host in a directory of its own."""
    with tempfile.TemporaryDirectory() as root:
        yield FakeKernel(root, baseline)
