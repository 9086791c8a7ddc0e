# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Carries plans out: the journal first, then the writes; what fails is rolled back."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ..errors import IsolationError, sentence_of
from ..journal import JournalFile
from ..model import Address, Claim, Journal, Skips, Step
from ..resources import Resources
from .bookkeeping import Bookkeeping
from .fold import Plan, fold_claims, fold_prior
from .writer import Writer


class Done(NamedTuple):
    """What was carried out, what the actions report, and what was written."""

    plan: Plan
    actions: Dict[str, Any]
    writer: Writer


class Execution:
    """All that one run writes, under the lock that its caller holds."""

    def __init__(self, resources: Resources, journal_file: JournalFile) -> None:
        self._resources = resources
        self._journal_file = journal_file
        self._books = Bookkeeping(resources)

    def apply(
        self,
        journal: Journal,
        plan: Plan,
        claims: Dict[str, Claim],
        claim: str,
        steps: Sequence[Step],
        replaces: bool,
    ) -> Done:
        """Apply a claim. Raises IsolationError, with the host and the journal as they were.

        A claim that `replaces` its former steps holds what it held until all is written, in case the run is killed.
        """
        writer = self._writer(plan)
        before = journal
        try:
            journal = self._books.recorded(journal, claims, plan)
            self._journal_file.save(journal)
            try:
                actions = writer.run(plan, steps, claim)
            finally:
                journal, plan = self._books.with_swept(journal, plan, writer.swept)
            if replaces:
                now = journal.claims[claim]._replace(holds=tuple(plan.holds[claim]))
                journal = journal._replace(claims={**journal.claims, claim: now})
            # What the claim had before, and lets go of, is tried again by the next run.
            plan = plan._replace(owed=plan.owed | writer.refused.intersection(plan.view.restored))
            skips = {**plan.view.skips.permanent(), **writer.skips.permanent()}
            self._journal_file.save(self._books.pruned(journal, plan, writer.skips)._replace(permanent_skips=skips))
        except Exception as error:
            raise _rolled_back(error, lambda: self._roll_back(before, journal, claim)) from error
        return Done(plan, actions, writer)

    def _roll_back(self, before: Journal, now: Journal, claim: str) -> Tuple[List[str], Skips]:
        """Go back to the former claims. Returns what could not be written, and what was skipped."""
        if claim not in now.claims:  # not even the journal could be written
            return [], Skips()
        owed = self._resources.cgroups.finish()  # a refusal may have passed
        plan = self._of_known(fold_claims(self._resources, now, before.claims, [now.claims[claim]]), now)
        writer = self._writer(plan)
        failures = [*owed, *writer.restore(plan)]
        if not failures:
            # Other claims may have been updated meanwhile: what they hold in addition must stay, too.
            claims = {name: before.claims[name] if name == claim else now.claims[name] for name in before.claims}
            right = {a for held in before.claims.values() for a in held.holds}.difference(before.baseline)
            baseline = {address: value for address, value in now.baseline.items() if address not in right}
            back = now._replace(baseline=baseline, claims=claims, permanent_skips=before.permanent_skips)
            try:
                back, plan = self._books.with_swept(back, plan, writer.swept)
                self._journal_file.save(self._books.pruned(back, plan, writer.skips))
            except IsolationError as error:
                if self._journal_file.load() != before:  # it may be what could not be written in the first place
                    failures.append(str(error))
        return failures, writer.skips

    def _of_known(self, plan: Plan, journal: Journal) -> Plan:
        """Without settings that no run has touched so far: no baseline is recorded for them."""

        def known(address: Address) -> bool:
            return address in journal.baseline or self._resources.kind(address).records_request

        changes = [change for change in plan.changes if known(change.address)]
        return plan._replace(
            changes=changes, holds={name: set(filter(known, held)) for name, held in plan.holds.items()}
        )

    def once(self, journal: Journal, plan: Plan, step: Step) -> Done:
        """Carry out a step that no claim owns. Raises IsolationError, with the host as it was."""
        self._save_requests(journal, plan)
        writer = self._writer(plan)
        try:
            return Done(plan, writer.run(plan, [step], ""), writer)
        except Exception as error:
            raise _rolled_back(error, lambda: self._undo(journal, plan, writer)) from error

    def _undo(self, journal: Journal, plan: Plan, writer: Writer) -> Tuple[List[str], Skips]:
        owed = self._resources.cgroups.finish()
        # Also affinities that were to be kept: the kernel reset them.
        done = [*plan.changes, *plan.keeps, *(change for changes in writer.swept.values() for change in changes)]
        values = {change.address: change.before for change in done}
        back = fold_prior(self._resources, journal, {**values, **writer.affected})
        undo = self._writer(back)
        return [*owed, *undo.restore(back)], undo.skips

    def revert(self, journal: Journal, plan: Plan, remaining: Mapping[str, Claim]) -> Writer:
        """Restore what claims held that leave. Raises IsolationError; the journal then has what is left to restore."""
        recorded = self._books.recorded(journal, journal.claims, plan)
        self._save_changed(journal, recorded)
        writer = self._writer(plan)
        failures = writer.restore(plan)
        if failures:
            raise IsolationError(
                f"not everything could be restored: {'; '.join(failures)}. The rest is restored, and the journal"
                " still has these: fix the cause and run restore again"
            ) from writer.fault
        left = recorded._replace(claims={name: recorded.claims[name] for name in remaining})
        self._journal_file.save(self._books.pruned(*self._books.with_swept(left, plan, writer.swept), writer.skips))
        return writer

    def save_choices(self, journal: Journal, plan: Plan) -> None:
        """Save what threads request now, before the kernel resets them."""
        self._save_changed(journal, self._books.with_choices(journal, plan))

    def _save_requests(self, journal: Journal, plan: Plan) -> None:
        """What claims know of threads stays true, also if somebody else's run binds these."""
        requested = {a: value for a, value in plan.requested.items() if a not in plan.view.restored}
        recorded = self._books.with_requests(journal, plan._replace(requested=requested))
        self._save_changed(journal, self._books.with_newcomers(recorded, plan))

    def _save_changed(self, journal: Journal, now: Journal) -> None:
        if now != journal:
            self._journal_file.save(now)

    def restore(self, journal: Journal, plan: Plan) -> Writer:
        """Restore saved values. Raises IsolationError with those that could not be restored."""
        self._save_requests(journal, plan)
        writer = self._writer(plan)
        failures = writer.restore(plan)
        if failures:
            raise IsolationError(f"not everything could be restored: {'; '.join(failures)}") from writer.fault
        return writer

    def _writer(self, plan: Plan) -> Writer:
        return Writer(self._resources, plan.view)


def _rolled_back(error: Exception, roll_back: Callable[[], Tuple[List[str], Skips]]) -> IsolationError:
    """Roll back after an error, and say so."""
    what = sentence_of(error)
    try:
        failures, skips = roll_back()
    except Exception as also:  # whatever it is, it must not hide what came first
        failures, skips = [sentence_of(also)], Skips()
    if failures:
        return IsolationError(f"{what}. Rolling back failed in part: {'; '.join(failures)}. Run restore to continue")
    left = "; ".join(f"{address}: {reason}" for address, reason in skips.reasons().items())
    return IsolationError(f"{what}. Everything is back as it was{f', except {left}' if left else ''}")
