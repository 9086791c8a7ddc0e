# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with claims, and the oracle: its twin without any, and what each claim and thread is to have."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.cpuset import CPUS
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Address, Step
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Outcome
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    engine,
    kill_at,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cpusets import Cpusets
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.irqs import IRQ
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import (
    POSSIBLE,
    Topology,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    FIXED,
    Cpus,
    Killed,
    numbers,
    os_error,
    text_of,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.lives.wishes import (
    Confine,
    Reserve,
    Unbind,
)


class Fault(NamedTuple):
    """What happens at the write number `at`: `kill`, or `refuse`."""

    kind: str
    at: int


class Life:
    """One host, its twin, and what is expected of it."""

    def __init__(self, kernel: FakeKernel, twin: FakeKernel) -> None:
        self.kernel = kernel
        self.twin = twin
        self.claims: Dict[str, Tuple[Any, ...]] = {}
        self.requested: Dict[int, Cpus] = {}  # by threads that are bound
        self.were_offline: Cpus = frozenset()
        self.after_run: Dict[int, Cpus] = {}  # what each thread had then
        self.born = 0
        for thread, task in kernel.threads.items():
            if task.cpus != kernel.effective(task.cgroup):
                self.requested[thread] = task.cpus
        self.irqs = dict(kernel.irqs)

    @property
    def online(self) -> Cpus:
        """The CPUs that are online."""
        return self.kernel.part(Topology).online

    def both(self, change: Callable[[FakeKernel], Any]) -> None:
        """Something happens that has nothing to do with claims."""
        change(self.kernel)
        change(self.twin)

    def steps(self, name: str) -> List[Step]:
        """The steps of a claim."""
        return [wish.step() for wish in self.claims[name]]

    # What is reserved, and for whom

    def reservations(self) -> List[Reserve]:
        """Those of all claims."""
        return [wish for wishes in self.claims.values() for wish in wishes if isinstance(wish, Reserve)]

    def reserved(self, below: str = "") -> Cpus:
        """All CPUs that are reserved, or those for a cgroup and what is in it."""
        return frozenset().union(
            *(
                numbers(wish.cpus) | numbers(wish.emulator)
                for wish in self.reservations()
                if (wish.cgroup + "/").startswith(below + "/")
            )
        )

    def kept_off(self) -> Cpus:
        """The CPUs that threads of the root cgroup are kept off."""
        unbound = [numbers(w.cpus) for wishes in self.claims.values() for w in wishes if isinstance(w, Unbind)]
        sliced = [self.reserved()] if any(wish.strategy == "slices" for wish in self.reservations()) else []
        return frozenset().union(*unbound, *sliced)

    # The oracle

    def mend(self) -> None:
        """Whatever happened since the last run is put right by the next, of any claim; without one, by a revert."""
        for name in self.claims:
            engine(self.kernel).apply(name, self.steps(name))
        if not self.claims:
            engine(self.kernel).revert()

    def check(self) -> None:
        """All claims have what they want, and nobody else has it."""
        self._check_cpus()
        self._check_threads()
        assert engine(self.kernel).inspect()[1].changes == [], "an audit right after a run finds drift"
        for name in self.claims:
            written = len(self.kernel.log)
            outcome = engine(self.kernel).apply(name, self.steps(name))
            assert not outcome.changed and len(self.kernel.log) == written, (name, outcome)
        self.after_run = {number: task.cpus for number, task in self.kernel.threads.items()}

    def _check_cpus(self) -> None:
        confined = {wish.path for wishes in self.claims.values() for wish in wishes if isinstance(wish, Confine)}
        for wish in self.reservations():
            own = self.reserved(wish.cgroup)
            if wish.cgroup not in self.kernel.cgroups:  # libvirt makes it with the VM, and it has what is left then
                assert wish.strategy == "slices", wish
                continue
            effective = self.kernel.effective(wish.cgroup)
            if wish.strategy == "partition":
                state = self.kernel.read(f"{CGROUP}{wish.cgroup}/cpuset.cpus.partition")
                assert state in ("isolated", "root"), (wish, state)
                assert effective == own & self.online, (wish, effective)
            else:
                assert own & self.online <= effective, (wish, effective)
        for path in self.kernel.cgroups:
            inside = any((wish.cgroup + "/").startswith(path + "/") for wish in self.reservations())
            below = any((path + "/").startswith(wish.cgroup + "/") for wish in self.reservations())
            said = any((path + "/").startswith(one + "/") for one in confined)
            if path != "/" and not inside and not below and not said:
                assert not self.kernel.effective(path) & self.reserved(), path

    def _check_threads(self) -> None:
        for thread, task in self.kernel.threads.items():
            if task.flags & FIXED:
                continue
            effective = self.kernel.effective(task.cgroup)
            if task.cgroup == "/":
                effective = effective - self.kept_off() or effective
            requested = self.requested.get(thread, POSSIBLE)
            assert task.cpus & self.online == ((requested & effective) or effective), (
                f"thread {thread} in {task.cgroup} has {text_of(task.cpus)}, requested {text_of(requested)}"
            )

    def check_end(self) -> None:
        """Nothing is left of any claim."""
        now, twin = self.kernel.snapshot(), self.twin.snapshot()
        assert engine(self.kernel).inspect()[0].baseline == {}
        for line in sorted(set(now) | set(twin)):
            value, expected = now.get(line), twin.get(line)
            kind, _space, number = line.partition(" ")
            if kind == "thread" and value and expected:
                assert value[:2] == expected[:2], line
                self._check_thread_at_end(int(number), numbers(value[2]), numbers(expected[2]))
                continue
            allowed = [expected]
            if line.startswith(f"{IRQ}/") and line.rpartition("/")[2].isdigit():
                requested = self.irqs.get(int(line.rpartition("/")[2]), POSSIBLE)
                allowed.append(text_of(requested))
                # If all of these were offline, it has what was online then, at the revert or when the last one went.
                if requested <= self.were_offline and value and POSSIBLE - self.were_offline <= numbers(value):
                    continue
            assert value in allowed, f"{line}: {value!r}, expected {allowed}"

    def _check_thread_at_end(self, number: int, cpus: Cpus, twin: Cpus) -> None:
        requested = self.requested.get(number, POSSIBLE)
        # Since Linux 6.2, what a thread requests beyond what is online is not shown.
        if self.kernel.part(Cpusets).remembers and number in self.requested and requested & self.were_offline:
            return
        assert cpus in (twin, requested), (
            f"thread {number} has {text_of(cpus)}, requested {text_of(requested)}, on the twin it has {text_of(twin)}"
        )

    # Runs of the engine

    def assert_back(self, before: Dict[str, Any], baseline: Mapping[Address, str], why: str) -> None:
        """All is as before, but for offline CPUs owed to threads, and directories that killed runs left empty.

        A list that was empty in the `baseline`, and that the kernel has kept so far, may be empty again.
        """
        now = self.kernel.snapshot()
        for line in sorted(set(before) | set(now)):
            one, two = before.get(line), now.get(line)
            if (one, two) == ("directory", None):
                continue
            path, _slash, name = line[len(CGROUP) :].rpartition("/")
            if name == "cpuset.cpus" and two == "" == baseline.get(Address(CPUS, path)):
                continue
            if line.startswith("thread ") and one and two:
                one, two = ((*seen[:2], numbers(seen[2]) & self.online) for seen in (one, two))
            assert one == two, f"{line}: {one!r} -> {two!r} ({why})"

    def run(self, call: Callable[[bool], Outcome], fault: Optional[Fault], compare: bool = True) -> Optional[str]:
        """A run, with `check` or not. Returns `killed`, `refused` or None; nothing may be half done then.

        The first run after one that was killed also completes what that one left, and reports nothing of it.
        """
        journal, found = engine(self.kernel).inspect()
        before, written = self.kernel.snapshot(), len(self.kernel.log)
        told: Any = None
        try:
            told = call(True)
        except IsolationError as error:
            told = str(error)
        assert len(self.kernel.log) == written and self.kernel.snapshot() == before, "check mode writes"
        if fault and fault.kind == "kill":
            self.kernel.watch = kill_at(fault.at)
        elif fault:
            self.kernel.refuse = refuse_at(fault.at)
        try:
            outcome = call(False)
        except Killed:
            return "killed"
        except IsolationError as error:
            assert "failed in part" not in str(error), error
            if not found.changes and not found.newcomers:
                self.assert_back(before, journal.baseline, str(error))
            return "refused"
        finally:
            self.kernel.watch = self.kernel.refuse = None
        if not fault and compare:
            assert isinstance(told, Outcome), told
            assert told.changed == outcome.changed
            assert set(told.changes) == set(outcome.changes), set(told.changes) ^ set(outcome.changes)
        return None


def refuse_at(count: int) -> Callable[[str], Optional[OSError]]:
    """A host that refuses one write."""
    left = [count]

    def refuse(_what: str) -> Optional[OSError]:
        left[0] -= 1
        return os_error(16) if left[0] == 0 else None

    return refuse
