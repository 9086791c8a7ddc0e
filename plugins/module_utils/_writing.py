# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Writes changes in their order, and reads them back."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

from ._catalog import STEPS
from ._errors import Immovable, IsolationError
from ._journal import Step
from ._kernel.systemd import SETTLED
from ._planning import Change, Plan
from ._resources import Resources
from ._state import State


class Writer:
    """All writes of one run, with what had to be left alone."""

    def __init__(self, resources: Resources, state: State) -> None:
        self._resources = resources
        self.state = state
        self.skipped: Dict[str, str] = {}
        self.lasting: Dict[str, str] = {}  # those of them that need not be tried again

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

    def give_back(self, plan: Plan) -> List[str]:
        """Write all that can be written. Returns a sentence for each that could not."""
        changes = plan.changes + plan.keeps
        failures = []
        for family in self._families(changes):
            failures += self._write_family(family, changes, stop=False)
        self._resources.systemd.settle()  # also what a killed run left to be settled
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
        failures: List[str] = []
        for stage, address, value in sorted(writes):
            try:
                if stage >= SETTLED:
                    self._resources.systemd.settle()
                self._write(address, value)
            except Immovable as reason:
                self.skipped[address] = str(reason)
                self.lasting[address] = str(reason)
            except IsolationError as error:
                if stop and self._resources.find(address)[0].restless:
                    # One interrupt that does not move now is no reason to fail, and is tried again by the next run.
                    self.skipped[address] = self._sentence(address, str(error))
                    continue
                failures.append(self._sentence(address, str(error)))
                if stop:
                    return failures
        self._resources.systemd.settle()
        for change in changes:
            if self._family(change) == family and not failures:
                failures += self._verify(change)
        return failures

    def _write(self, address: str, value: str) -> None:
        kind, name = self._resources.find(address)
        if not self._is_right(address, kind.read(name), value):
            kind.write(name, value)

    def _is_right(self, address: str, now: Optional[str], value: str) -> bool:
        """Whether a setting is as it should be; of what is gone, nothing is wanted that no step plans."""
        return now == value or (now is None and (value == "" or address not in self.state.planned))

    def _verify(self, change: Change) -> List[str]:
        kind, name = self._resources.find(change.address)
        if kind.restless or change.address in self.skipped:
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
