# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Writes changes in their order, and reads them back."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from ..errors import IsolationError, Skipped, TimeLimit, sentence_of
from ..kernel.stages import Stage
from ..model import Address, Change, Skips, Step
from ..planning.view import View
from ..resources import Resources
from ..steps.catalog import STEPS
from .fold import Plan

# Stage, depth, address, value: in this order all writes of a family are made.
_Planned = Tuple[Stage, int, Address, str]


class Writer:
    """All writes of one run, with what was skipped."""

    def __init__(self, resources: Resources, view: View) -> None:
        self._resources = resources
        self._view = view
        self.skips = Skips()
        self.refused: Set[Address] = set()  # of these, what may succeed later
        self.swept: Dict[str, List[Change]] = {}  # by claim: the places and affinities of tasks forked meanwhile
        self.warnings: List[str] = []
        self.fault: Optional[Exception] = None  # the first that kept `restore` from restoring something
        self.affected: Dict[Address, str] = {}  # the values that other writes have changed, as they should be

    def run(self, plan: Plan, steps: Sequence[Step], claim: str) -> Dict[str, Any]:
        """Write family by family, each at the claim's first step that needs it, in order with the actions.

        Returns what the actions report, by the name of their module, or by `NAME:POSITION` for those that are not the
        first of that name. Raises IsolationError at the first refusal.
        """
        changes = plan.changes + plan.keeps
        place = {family: len(steps) for family in self._families(changes)}
        for change in changes:
            author = self._view.authors.get(change.address)
            if author and author.claim == claim:
                family = self._family(change)
                place[family] = min(place[family], author.position)
        agenda: List[Tuple[int, str, Optional[Step]]] = [(place[f], f, None) for f in place]
        agenda += [(i, "", step) for i, step in enumerate(steps) if STEPS[step.name].acts]
        reports: Dict[str, Any] = {}
        for position, family, step in sorted(agenda, key=lambda item: item[0]):
            if step is None:
                failures = self._write_family(family, changes, stop=True)
                if failures:
                    raise IsolationError(failures[0])
                continue
            try:
                report = STEPS[step.name].act(step.arguments, self._resources)
            except IsolationError as error:
                raise IsolationError(f"step {position + 1} ({step.name}): {error}") from error
            reports[f"{step.name}:{position + 1}" if step.name in reports else step.name] = report
        return reports

    def restore(self, plan: Plan) -> List[str]:
        """Write all that can be written. Returns a sentence for each that could not."""
        changes = plan.changes + plan.keeps
        failures: List[str] = []
        for family in self._families(changes):
            try:
                failures += self._write_family(family, changes, stop=False)
            except Exception as error:  # whatever it is, the other families are restored
                failures.append(self._described(error))
        try:
            self._resources.systemd.reload_if_due()  # also if a killed run left it due
        except Exception as error:
            failures.append(self._described(error))
        return list(dict.fromkeys(failures))

    def _described(self, error: Exception) -> str:
        if isinstance(error, TimeLimit):  # nothing continues after that
            raise error
        self.fault = self.fault or error
        return sentence_of(error)

    def _family(self, change: Change) -> str:
        return self._resources.kind(change.address).family

    def _families(self, changes: Sequence[Change]) -> List[str]:
        needed = {self._family(change) for change in changes}
        return [f for f in dict.fromkeys(kind.family for kind in self._resources.kinds.values()) if f in needed]

    def _write_family(self, family: str, changes: Sequence[Change], stop: bool) -> List[str]:
        failures: List[str] = []
        is_checked = False
        for stage, _depth, address, value in self._writes(family, changes):
            if stage == Stage.BIND_THREAD and not is_checked:
                # What partitions there are decides which CPUs a thread can have.
                is_checked = True
                failures += self._verify_affected(family)
                if failures and stop:
                    return failures
            try:
                if stage.is_behind_systemd:
                    self._resources.systemd.reload_if_due()
                if stage == Stage.SWEEP:
                    self._sweep(value)
                else:
                    self._write(address, value)
            except Skipped as skipped:
                self.skips.add(address, str(skipped), skipped.permanent)
            except IsolationError as error:
                sentence = self._sentence(address, str(error))
                if stop and stage != Stage.SWEEP and self._resources.kind(address).best_effort:
                    self.skips.add(address, sentence)
                    self.refused.add(address)
                    continue
                failures.append(sentence)
                if stop:
                    return failures
            except Exception as error:
                if stop:
                    raise
                failures.append(self._sentence(address, self._described(error)))  # the other settings are restored
        self._resources.systemd.reload_if_due()
        if not is_checked and not failures:
            failures += self._verify_affected(family)
        for change in changes:
            if self._family(change) == family and not failures:
                failures += self._verify(change)
        return failures

    def _writes(self, family: str, changes: Sequence[Change]) -> List[_Planned]:
        writes: List[_Planned] = []
        for change in changes:
            kind = self._resources.kind(change.address)
            if kind.family == family:
                planned = kind.writes(change.address.name, change.before, change.after)
                writes += [(write.stage, write.depth, change.address, write.value) for write in planned]
        if any(stage == Stage.MOVE_TASK for stage, _depth, _address, _value in writes):
            sources = {**self._view.sweeps, **self._view.returns}
            writes += [(Stage.SWEEP, 0, Address(""), source) for source in sources]
        return sorted(writes)

    def _write(self, address: Address, value: str) -> None:
        kind = self._resources.kind(address)
        if not kind.reread_before_write or not self._is_right(address, kind.read(address.name), value):
            kind.write(address.name, value)

    def _sweep(self, source: str) -> None:
        from .sweep import Sweeper  # few claims move tasks

        sweeper = Sweeper(self._resources, self._view, self._write, self.swept)
        for sweeps in (self._view.sweeps, self._view.returns):
            if source in sweeps:
                self.warnings += sweeper.sweep(source, sweeps[source])

    def _is_right(self, address: Address, now: Optional[str], value: str) -> bool:
        """Whether a setting is as it should be; one that is gone counts as right unless a step plans it."""
        return now == value or (now is None and (value == "" or address not in self._view.planned))

    def _verify_affected(self, family: str) -> List[str]:
        """A sentence for each setting of a family that claims want and that other writes have changed."""
        for address, value in self._view.planned.items():
            kind = self._resources.kind(address)
            if kind.family == family and kind.affected_by_family and address not in self.skips:
                now = kind.read(address.name)
                if not self._is_right(address, now, value):
                    self.affected[address] = value
                    return [self._sentence(address, kind.explain(address.name, value, now))]
        return []

    def _verify(self, change: Change) -> List[str]:
        kind = self._resources.kind(change.address)
        if kind.volatile or change.address in self.skips:
            return []
        now = kind.read(change.address.name)
        if self._is_right(change.address, now, change.after):
            return []
        return [self._sentence(change.address, kind.explain(change.address.name, change.after, now))]

    def _sentence(self, address: Address, what: str) -> str:
        author = self._view.authors.get(address)
        return f"step {author.position + 1} ({author.step}): {what}" if author and author.step else what
