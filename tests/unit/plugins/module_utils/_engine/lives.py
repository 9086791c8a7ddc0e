# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lives of hosts: claims come, change and go, by all doors, are killed and refused, while the host changes, too.

The oracle is a twin: the same host with the same events, and without any claim. When all claims are gone, the two must
not differ. It knows by itself what each claim is to have, and what each thread requested.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.cpuset import CPUS, TASK_AFFINITY
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Address, Step
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Outcome
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    baselines,
    engine,
    kill_at,
    step,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cpusets import Cpusets
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.irqs import IRQ, Irqs
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.systemd import Systemd
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import (
    POSSIBLE,
    Topology,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    FIXED,
    KERNEL_THREAD,
    STOCK,
    Baseline,
    Cpus,
    Killed,
    numbers,
    os_error,
    text_of,
)
from hypothesis import strategies as st

VMS = "/machine.slice"
BELOW = f"{VMS}/machine-vms.slice"
OTHER = "/vms.slice"


# What a claim wants


class Reserve(NamedTuple):
    """CPUs for what is in a cgroup."""

    cpus: str
    strategy: str = "partition"
    cgroup: str = VMS
    emulator: str = ""

    def step(self) -> Step:
        """Its step."""
        given = {"cpus": self.cpus, "emulator_cpus": self.emulator, "strategy": self.strategy, "cgroup": self.cgroup}
        return step("reserve_cpus", **given)


class Confine(NamedTuple):
    """The CPUs of one unit."""

    path: str
    cpus: str
    operation: str

    def step(self) -> Step:
        """Its step."""
        return step("cpuset", path=self.path, cpus=self.cpus, operation=self.operation)


class Govern(NamedTuple):
    """A governor."""

    cpus: str
    governor: str = "performance"

    def step(self) -> Step:
        """Its step."""
        return step("cpu_governor", cpus=self.cpus, governor=self.governor)


class Mask(NamedTuple):
    """Interrupts kept off CPUs."""

    cpus: str

    def step(self) -> Step:
        """Its step."""
        return step("irq_affinity", cpus=self.cpus)


class Unbind(NamedTuple):
    """Kernel threads kept off CPUs."""

    cpus: str

    def step(self) -> Step:
        """Its step."""
        return step("kthread_affinity", cpus=self.cpus)


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

    def bring_online(self) -> None:
        """All CPUs."""
        for cpu in sorted(POSSIBLE - self.online):
            Hotplug(cpu).happens(self)

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
        """Whatever happened since the last run is put right by the next, of any claim."""
        for name in self.claims:
            engine(self.kernel).apply(name, self.steps(name))

    def check(self) -> None:
        """All claims have what they want, and nobody else has it."""
        self._check_cpus()
        self._check_threads()
        assert engine(self.kernel).inspect()[1].changes == [], "an audit right after a run finds drift"
        for name in self.claims:
            written = len(self.kernel.log)
            outcome = engine(self.kernel).apply(name, self.steps(name))
            assert not outcome.changed and len(self.kernel.log) == written, (name, outcome)

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
                allowed.append(text_of(self.irqs.get(int(line.rpartition("/")[2]), POSSIBLE)))
            assert value in allowed, f"{line}: {value!r}, expected {allowed}"

    def _check_thread_at_end(self, number: int, cpus: Cpus, twin: Cpus) -> None:
        requested = self.requested.get(number, POSSIBLE)
        # Since Linux 6.2, what a thread requests beyond what is online is not shown.
        if self.kernel.part(Cpusets).remembers and requested & self.were_offline:
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
            if not found.changes:
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


# What happens


class Apply(NamedTuple):
    """A claim comes, or changes."""

    claim: str
    wishes: Tuple[Any, ...]
    fault: Optional[Fault] = None
    then: str = "again"

    def happens(self, life: Life) -> None:
        """To a host."""
        steps = [wish.step() for wish in self.wishes]
        ended = life.run(lambda check: engine(life.kernel).apply(self.claim, steps, check), self.fault)
        if ended == "killed" and self.then == "revert":
            engine(life.kernel).revert([self.claim])
            life.claims.pop(self.claim, None)
        elif ended == "killed" or (ended is None and self.fault):
            ended = life.run(lambda check: engine(life.kernel).apply(self.claim, steps, check), None, compare=False)
            if ended:  # what was killed might have been refused all the same: then the claim is as it wants to be
                engine(life.kernel).revert([self.claim])
                life.claims.pop(self.claim, None)
            else:
                life.claims[self.claim] = self.wishes
        elif ended is None:
            life.claims[self.claim] = self.wishes
        life.mend()
        life.check()


class Extend(NamedTuple):
    """A single module with a claim's name."""

    claim: str
    wish: Any

    def happens(self, life: Life) -> None:
        """To a host."""
        ended = life.run(lambda check: engine(life.kernel).extend(self.claim, self.wish.step(), check), None)
        if ended is None:
            had = tuple(wish for wish in life.claims.get(self.claim, ()) if wish != self.wish)
            life.claims[self.claim] = (*had, self.wish)
        life.mend()
        life.check()


class Once(NamedTuple):
    """A single module without a claim, and what it returns as `prior` restored."""

    wish: Any

    def happens(self, life: Life) -> None:
        """To a host."""
        prior: Dict[str, str] = {}

        def once(check: bool) -> Outcome:
            outcome = engine(life.kernel).once(self.wish.step(), check)
            prior.update(() if check else outcome.prior)
            return outcome

        if life.online != POSSIBLE or life.reservations():
            return  # nobody records for later what CPUs that are offline, or a partition, keep from being restored
        if life.run(once, None) is None:
            engine(life.kernel).restore_prior(prior)
        life.mend()
        life.check()


class Revert(NamedTuple):
    """A claim goes."""

    claim: str
    fault: Optional[Fault] = None

    def happens(self, life: Life) -> None:
        """To a host."""
        if self.claim not in life.claims:
            return
        if self.fault:
            if self.fault.kind == "kill":
                life.kernel.watch = kill_at(self.fault.at)
            else:
                life.kernel.refuse = refuse_at(self.fault.at)
            try:
                engine(life.kernel).revert([self.claim])
            except (Killed, IsolationError):
                pass
            finally:
                life.kernel.watch = life.kernel.refuse = None
        if self.claim in engine(life.kernel).inspect()[0].claims:
            compare = self.fault is None
            assert life.run(lambda check: engine(life.kernel).revert([self.claim], check), None, compare) is None
        del life.claims[self.claim]
        life.mend()
        life.check()


class Hotplug(NamedTuple):
    """A CPU goes offline, or comes online."""

    cpu: int

    def happens(self, life: Life) -> None:
        """To a host."""
        online = life.online ^ {self.cpu}
        life.were_offline |= {self.cpu}
        before = {thread: task.cpus for thread, task in life.kernel.threads.items()}
        baseline = engine(life.kernel).inspect()[0].baseline
        recorded = {a.name.split(":")[0]: numbers(cpus) for a, cpus in baseline.items() if a.kind == TASK_AFFINITY}
        life.both(lambda kernel: kernel.hotplug(online))
        for thread, task in life.kernel.threads.items():
            effective = life.kernel.effective(task.cgroup)
            remembers = life.kernel.part(Cpusets).remembers and not task.flags & KERNEL_THREAD
            if (
                (not remembers or task.asked is None)
                and task.cpus != before[thread]
                and task.cpus in (effective, POSSIBLE)
            ):
                # The kernel lost what no run has recorded.
                life.requested[thread] = recorded.get(str(thread), POSSIBLE)


class Begins(NamedTuple):
    """A thread begins."""

    cgroup: str
    cpus: str

    def happens(self, life: Life) -> None:
        """To a host."""
        if self.cgroup not in life.kernel.cgroups or self.cgroup not in life.twin.cgroups:
            return
        life.born += 1
        number = 200 + life.born
        effective = life.kernel.effective(self.cgroup)
        cpus = numbers(self.cpus) & effective & life.twin.effective(self.cgroup)
        bound = bool(cpus) and cpus != effective and cpus != life.twin.effective(self.cgroup)
        flags = KERNEL_THREAD if self.cgroup == "/" else 0
        life.both(lambda kernel: kernel.add_thread(number, self.cgroup, text_of(cpus if bound else POSSIBLE), flags))
        if bound:
            life.requested[number] = cpus


class Ends(NamedTuple):
    """A thread ends."""

    thread: int

    def happens(self, life: Life) -> None:
        """To a host."""
        threads = sorted(life.kernel.threads)
        if threads:
            number = threads[self.thread % len(threads)]
            life.requested.pop(number, None)
            life.both(lambda kernel: kernel.threads.pop(number, None))


class Binds(NamedTuple):
    """A thread binds itself."""

    thread: int
    cpus: str

    def happens(self, life: Life) -> None:
        """To a host."""
        threads = sorted(life.kernel.threads)
        number = threads[self.thread % len(threads)] if threads else 0
        task, twin = life.kernel.threads.get(number), life.twin.threads.get(number)
        if task is None or twin is None or task.flags & FIXED:
            return
        effective = life.kernel.effective(task.cgroup)
        possible = effective & life.twin.effective(task.cgroup)
        cpus = numbers(self.cpus) & possible
        kept = effective - life.kept_off()
        # What the kernel or we could have given it is no choice that anybody could see.
        ours = (task.cpus, task.cpus & life.online, effective, kept, life.twin.effective(task.cgroup))
        if cpus and cpus not in ours and cpus != (life.requested.get(number, POSSIBLE) & kept):
            task.ask(cpus, effective)
            twin.ask(cpus, life.twin.effective(task.cgroup))
            life.requested[number] = cpus


class Reload(NamedTuple):
    """daemon-reload."""

    def happens(self, life: Life) -> None:
        """To a host."""
        if life.kernel.part(Systemd).running:
            life.both(lambda kernel: kernel.part(Systemd).reload())


class Unit(NamedTuple):
    """A slice comes, or goes with all that is in it."""

    name: str

    def happens(self, life: Life) -> None:
        """To a host."""
        path = f"/{self.name}"
        if not life.kernel.part(Systemd).running:
            return
        if path not in life.twin.cgroups:
            life.both(lambda kernel: kernel.part(Systemd).change(["systemctl", "start", self.name]))
        else:
            gone = {n for n, task in life.twin.threads.items() if (task.cgroup + "/").startswith(path + "/")}
            life.both(lambda kernel: kernel.part(Systemd).change(["systemctl", "stop", self.name]))
            for number in gone:
                life.requested.pop(number, None)


class Interrupt(NamedTuple):
    """A device requests another interrupt, or frees it."""

    number: int

    def happens(self, life: Life) -> None:
        """To a host."""

        def change(kernel: FakeKernel) -> None:
            irqs = kernel.part(Irqs)
            if self.number in irqs.affinities:
                del irqs.affinities[self.number]
            else:
                irqs.affinities[self.number] = irqs.default

        if life.online != POSSIBLE:
            return  # without those that are offline, nobody knows that it is the default
        life.both(change)
        life.irqs[self.number] = life.twin.part(Irqs).default


Event = Any


def live(baseline: Baseline, events: Sequence[Event], offline_at_the_end: bool) -> None:
    """One life, to its end."""
    with booted(baseline) as kernel, booted(baseline) as twin:
        life = Life(kernel, twin)
        for event in events:
            event.happens(life)
        if not offline_at_the_end:
            life.bring_online()
        engine(kernel).revert()
        life.bring_online()
        engine(kernel).revert()
        life.claims.clear()
        life.check_end()


# Random lives


def _some(low: int, high: int) -> st.SearchStrategy[str]:
    return st.sets(st.integers(low, high), min_size=1, max_size=3).map(frozenset).map(text_of)


def _reservations() -> st.SearchStrategy[Any]:
    # Mostly CPUs of their own, as VMs have them.
    cpus = st.sampled_from(["1", "2", "2-3", "4", "4-5", "5", "5-6", "6", "6-7", "7"]) | _some(1, 7)
    places = st.sampled_from([VMS, VMS, VMS, OTHER])
    plain = st.builds(Reserve, cpus, st.sampled_from(["partition", "slices"]), places, st.sampled_from(["", "", "3"]))
    return plain | st.builds(Reserve, cpus, st.just("slices"), st.just(BELOW))


def _wishes() -> st.SearchStrategy[Any]:
    govern = st.builds(Govern, _some(1, 7), st.sampled_from(["performance", "powersave"]))
    confine = st.builds(
        Confine,
        st.sampled_from(["/own.slice", "/user.slice", "/system.slice", "/made.slice"]),
        _some(0, 7),
        st.sampled_from(["set", "mask", "add"]),
    )
    reserve = _reservations()
    others = [st.builds(Mask, _some(1, 7)), st.builds(Unbind, _some(1, 7))]
    return st.one_of(reserve, reserve, govern, confine, *others)


def _events() -> st.SearchStrategy[Any]:
    claims = st.sampled_from(["a", "b", "c", "d"])
    fault = st.none() | st.builds(Fault, st.sampled_from(["kill", "refuse"]), st.integers(1, 60))
    wishes = st.lists(_wishes(), min_size=1, max_size=2, unique=True).map(tuple)
    places = st.sampled_from(["/", "/system.slice/a.service", "/own.slice", "/user.slice", "/new.slice"])
    return st.one_of(
        st.builds(Apply, claims, wishes, fault, st.sampled_from(["again", "revert"])),
        st.builds(Apply, claims, wishes, st.none(), st.just("again")),
        st.builds(Extend, claims, _wishes()),
        st.builds(Revert, claims, fault),
        st.builds(Once, _wishes()),
        st.builds(Hotplug, st.integers(1, 7)),
        st.builds(Begins, places, _some(0, 7)),
        st.builds(Ends, st.integers(0, 20)),
        st.builds(Binds, st.integers(0, 20), _some(0, 7)),
        st.just(Reload()),
        st.just(Unit("new.slice")),
        st.builds(Interrupt, st.integers(9, 10)),
    )


def lives() -> st.SearchStrategy[Any]:
    """A host, what happens to it, and whether CPUs are offline when its claims end."""
    return st.tuples(baselines(), st.lists(_events(), min_size=2, max_size=10), st.booleans())


def script(life: Any) -> str:
    """A life that fails, with as little as fails in the same way, for people."""
    baseline, events, offline_at_the_end = life

    def error_of(some: Sequence[Event]) -> Optional[str]:
        try:
            live(baseline, some, offline_at_the_end)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    known = str(error_of(events))
    position = 0
    while position < len(events):
        fewer = [*events[:position], *events[position + 1 :]]
        found = error_of(fewer)
        if found and found.partition(":")[0] == known.partition(":")[0]:
            events, known = fewer, found
        else:
            position += 1
    differing = {name: value for name, value in baseline._asdict().items() if value != getattr(STOCK, name)}
    lines = [f"baseline: {differing}", *map(repr, events), f"CPUs are offline at the end: {offline_at_the_end}"]
    return "\n".join([known, *lines])
