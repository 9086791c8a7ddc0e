# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happens to a host: claims come and go, and the host changes."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional, Tuple

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.cpuset import TASK_AFFINITY
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Outcome
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    engine,
    kill_at,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cpusets import Cpusets
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.irqs import Irqs
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.systemd import Systemd
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import (
    POSSIBLE,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    FIXED,
    KERNEL_THREAD,
    Killed,
    numbers,
    text_of,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.lives.host import Fault, Life, refuse_at


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
        for thread, task in list(life.kernel.threads.items()):
            effective = life.kernel.effective(task.cgroup)
            bound = life.requested.get(thread, POSSIBLE) != POSSIBLE and str(thread) not in recorded
            if bound and task.cpus & online == effective:
                # Bound to just what is online now, it cannot be told from one that is bound to nothing: it ends.
                life.requested.pop(thread)
                life.both(lambda kernel, ended=thread: kernel.threads.pop(ended, None))
                continue
            remembers = life.kernel.part(Cpusets).remembers and not task.flags & KERNEL_THREAD
            if (
                (not remembers or task.asked is None or str(thread) in recorded)
                and task.cpus != before[thread]
                and task.cpus in (effective, POSSIBLE)
            ):
                # The kernel lost what no run has recorded, or does not show what was chosen since a run has.
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
        requested = life.requested.get(number, POSSIBLE)
        given = life.after_run.get(number)  # if it was bound to something else meanwhile
        if cpus and cpus not in (*ours, requested & kept, requested & effective, given):
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
