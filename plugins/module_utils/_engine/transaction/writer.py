# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Writes changes in their order, and reads them back."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ..errors import Immovable, IsolationError
from ..kernel.cpuset import MOVES
from ..kernel.systemd import SETTLED
from ..kernel.task import read_task
from ..model import Change, Step
from ..planning.tasks import follow
from ..planning.view import State, Sweep
from ..resources import PLACE, THREAD, Resources
from ..steps.catalog import STEPS
from ..text.cpus import CpuSet, format_list
from .affinity import fit
from .fold import Plan

# Right behind the moves.
SWEEPS = MOVES + 0.5
# One finds what was forked while the one before moved tasks: the forks of a fork get fewer each time.
ROUNDS = 1000


class Writer:
    """All writes of one run, with what had to be left alone."""

    def __init__(self, resources: Resources, state: State) -> None:
        self._resources = resources
        self.state = state
        self.skipped: Dict[str, str] = {}
        self.lasting: Dict[str, str] = {}  # those of them that need not be tried again
        self.swept: Dict[str, List[Change]] = {}  # by claim: what was forked meanwhile, its place and affinity
        self.warnings: List[str] = []

    def run(self, plan: Plan, steps: Sequence[Step], claim: str) -> Dict[str, Any]:
        """Write family by family, each where the claim's first step that needs it stands, between the actions.

        Returns what the actions tell, by step. Raises IsolationError at the first refusal.
        """
        changes = plan.changes + plan.keeps
        place = {family: float(len(steps)) for family in self._families(changes)}
        for change in changes:
            author = self.state.authors.get(change.address)
            if author and author.claim == claim:
                family = self._family(change)
                place[family] = min(place[family], author.position)
        agenda: List[Tuple[float, str, Optional[Step]]] = [(place[f], f, None) for f in place]
        agenda += [(i, "", step) for i, step in enumerate(steps) if hasattr(STEPS[step.name], "act")]
        told: Dict[str, Any] = {}
        for position, family, step in sorted(agenda, key=lambda item: item[0]):
            if step is None:
                failures = self._write_family(family, changes, stop=True)
                if failures:
                    raise IsolationError(failures[0])
                continue
            try:
                told[step.name] = STEPS[step.name].act(step.arguments, self._resources)
            except IsolationError as error:
                raise IsolationError(f"step {int(position) + 1} ({step.name}): {error}") from error
        return told

    def restore(self, plan: Plan) -> List[str]:
        """Write all that can be written. Returns a sentence for each that could not."""
        changes = plan.changes + plan.keeps
        failures = []
        for family in self._families(changes):
            failures += self._write_family(family, changes, stop=False)
        self._resources.systemd.reload_if_due()  # also what a killed run left to be settled
        return failures

    def _family(self, change: Change) -> str:
        return self._resources.find(change.address)[0].family

    def _families(self, changes: Sequence[Change]) -> List[str]:
        needed = {self._family(change) for change in changes}
        return [f for f in dict.fromkeys(kind.family for kind in self._resources.kinds.values()) if f in needed]

    def _write_family(self, family: str, changes: Sequence[Change], stop: bool) -> List[str]:
        writes = []
        for change in changes:
            kind, name = self._resources.find(change.address)
            if kind.family == family:
                writes += [(s, change.address, value) for s, value in kind.stages(name, change.before, change.after)]
        if any(stage == MOVES for stage, _address, _value in writes):
            writes += [(SWEEPS, "", source) for source in {**self.state.sweeps, **self.state.returns}]
        failures: List[str] = []
        for stage, address, value in sorted(writes):
            try:
                if stage >= SETTLED:
                    self._resources.systemd.reload_if_due()
                if stage == SWEEPS:
                    for sweeps in (self.state.sweeps, self.state.returns):
                        self._sweep(value, sweeps)
                else:
                    self._write(address, value)
            except Immovable as reason:
                self.skipped[address] = str(reason)
                self.lasting[address] = str(reason)
            except IsolationError as error:
                if stop and address and self._resources.find(address)[0].best_effort:
                    self.skipped[address] = self._sentence(address, str(error))
                    continue
                failures.append(self._sentence(address, str(error)))
                if stop:
                    return failures
        self._resources.systemd.reload_if_due()
        for change in changes:
            if self._family(change) == family and not failures:
                failures += self._verify(change)
        return failures

    def _write(self, address: str, value: str) -> None:
        kind, name = self._resources.find(address)
        if not kind.reread_before_write or not self._is_right(address, kind.read(name), value):
            kind.write(name, value)

    def _sweep(self, source: str, sweeps: Mapping[str, Sweep]) -> None:
        """Move what was forked in a cgroup since it was planned to be emptied, until nothing is found that moves."""
        if source not in sweeps:
            return
        cgroups = self._resources.cgroups
        room = cgroups.effective_cpus(source)
        settled: Set[int] = set()
        written: Set[int] = set()
        listed: Set[int] = set()
        for _round in range(ROUNDS):
            found = [task for task in cgroups.tasks(source) if task not in settled]
            if not found:
                return
            # Where a list is old as soon as it is read, only the last in it has most of its life before it.
            raging = bool(listed) and not listed.issuperset(found)
            listed = set(found)
            for number in found[-1:] if raging else found:
                # One that is still listed after it was moved is ending, or has ended but for other threads.
                if number in written or not self._sweep_one(source, sweeps[source], number, room):
                    settled.add(number)
                written.add(number)
        self.warnings.append(f"{source}: tasks kept forking there: gave up moving them after {ROUNDS} rounds")

    def _sweep_one(self, source: str, sweep: Sweep, number: int, room: CpuSet) -> bool:
        """Move one task, with as little as can be before it, for it may end. False where it has, or stays."""
        host, cgroups = self._resources.host, self._resources.cgroups
        task, target = None, sweep.everything_to
        if target is None or target in self.state.sweeps:
            task = read_task(host, number)
            if sweep is self.state.sweeps.get(source):
                target = follow(self.state, task, source) if task else None
            else:
                target = sweep.decide(task) if task else None
        if target is None or target == source:
            return False
        before = host.affinity(number)
        try:
            self._write(f"{PLACE}:{number}:{task.start if task else 0}", target)
        except Immovable:
            return False
        task = task or read_task(host, number)
        if task:
            changes = self.swept.setdefault(sweep.claim, [])
            changes.append(Change(f"{PLACE}:{task.name}", source, target))
            after = fit(before, cgroups.effective_cpus(target)) if before and before != room else None
            if before and after:
                changes.append(Change(f"{THREAD}:{task.name}", format_list(before), format_list(after)))
                with contextlib.suppress(Immovable):  # it has ended
                    self._write(f"{THREAD}:{task.name}", format_list(after))
        return True

    def _is_right(self, address: str, now: Optional[str], value: str) -> bool:
        """Whether a setting is as it should be; of what is gone, nothing is wanted that no step plans."""
        return now == value or (now is None and (value == "" or address not in self.state.planned))

    def _verify(self, change: Change) -> List[str]:
        kind, name = self._resources.find(change.address)
        if kind.volatile or change.address in self.skipped:
            return []
        now = kind.read(name)
        if self._is_right(change.address, now, change.after):
            return []
        if now and now.startswith(f"{change.after} invalid"):
            return [self._sentence(change.address, f"{kind.where(name)}: the kernel made the partition {now}")]
        return [self._sentence(change.address, f"{kind.where(name)} took {change.after!r}, but reads {now!r}")]

    def _sentence(self, address: str, what: str) -> str:
        author = self.state.authors.get(address)
        return f"step {author.position + 1} ({author.step}): {what}" if author and author.step else what
