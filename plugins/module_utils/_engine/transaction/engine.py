# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""One engine for every door: apply a claim, revert claims, report drift. All or nothing, under one lock."""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

from ..arguments import check_claim
from ..errors import IsolationError, sentence_of
from ..journal import JournalFile
from ..kernel.host import Host
from ..model import Address, Change, Claim, Journal, Skips, Step, Values
from ..resources import Resources
from ..steps.catalog import STEPS, complete
from .fold import Plan, fold

if TYPE_CHECKING:  # otherwise only if something is to be written
    from .bookkeeping import Bookkeeping
    from .writer import Writer

T = TypeVar("T")

LOCK_TIMEOUT = 60.0
# A claim with this name is never written to the journal: it is a single module's step without a claim.
UNCLAIMED = ""


class Outcome(NamedTuple):
    """What was done, or in check mode what would be."""

    changed: bool
    changes: List[Change]
    skipped: Dict[Address, str]  # with the reason
    actions: Dict[str, Any]
    notes: Dict[str, object]
    warnings: List[str]
    writes: int = 0

    @property
    def prior(self) -> Dict[Address, str]:
        """Address -> value just before, of everything that changed; `Engine.restore_prior` takes it."""
        return {change.address: change.before for change in self.changes}


class Engine:
    """The engine on one host."""

    def __init__(self, host: Host, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self.host = host
        self._lock_timeout = lock_timeout
        self.resources = Resources(host)
        self.journal_file = JournalFile(self.resources, complete)

    @property
    def _books(self) -> Bookkeeping:
        from .bookkeeping import Bookkeeping  # a run that changes nothing does not need it

        return Bookkeeping(self.resources)

    def apply(
        self, claim: str, steps: Sequence[Step], check: bool = False, created_by: str = "", acts: bool = True
    ) -> Outcome:
        """Apply a claim, or bring the host back to it; with `check`, only report what that would change.

        Without `acts`, its actions do not run. If it fails, it raises IsolationError and leaves the host as it was.
        """
        with self.journal_file.locked(self._lock_timeout):
            journal = self._load(check)
            return self._apply(journal, claim, tuple(steps), tuple(steps) if acts else (), check, created_by)

    def apply_and_then(
        self, claim: str, steps: Sequence[Step], check: bool, then: Callable[[], T]
    ) -> Tuple[Outcome, T]:
        """Apply a claim, then do what belongs to it. If that fails, the claim is as before. Raises IsolationError."""
        with self.journal_file.locked(self._lock_timeout):
            before = self.journal_file.load().claims.get(claim)
        outcome = self.apply(claim, steps, check)
        try:
            return outcome, then()
        except Exception as error:
            what = sentence_of(error)
            fresh = Engine(self.host, self._lock_timeout)  # one that does not remember what was read and written
            try:
                if before is None:
                    fresh.revert([claim], check)
                else:
                    fresh.apply(claim, before.steps, check, before.created_by, acts=False)
            except IsolationError as also:
                raise IsolationError(f"{what}. The claim {claim!r} is applied anyway: {also}") from error
            raise IsolationError(f"{what}. The claim {claim!r} is as it was before") from error

    def _apply(
        self,
        journal: Journal,
        claim: str,
        steps: Tuple[Step, ...],
        acting: Tuple[Step, ...],
        check: bool,
        created_by: str = "",
    ) -> Outcome:
        """Give the claim these steps; those of `acting` that are actions run if anything is to be done."""
        check_claim(claim)
        old = journal.claims.get(claim)
        if old and old.created_by != created_by:
            whose = f"it is {old.created_by}'s" if old.created_by else f"{created_by} did not make it"
            raise IsolationError(
                f"claim: there is a claim {claim!r} already, and {whose}; take another name, or revert it first"
            )
        claims = dict(journal.claims)
        claims[claim] = Claim(steps, old.holds if old else (), created_by)
        changed_claim = old is None or old.steps != steps
        # A claim that only grows reverts nothing.
        leaving = [old] if old and old.steps != steps[: len(old.steps)] else []
        plan = self._fold(journal._replace(permanent_skips={}) if changed_claim else journal, claims, leaving)
        if not changed_claim and not plan.changes:
            return self._outcome(plan, (), {})
        if check:
            return self._outcome(plan, acting, {})._replace(changed=True)
        return self._carry_out(journal, claims, claim, plan, acting, replaces=bool(leaving))

    def extend(self, claim: str, step: Step, check: bool = False) -> Outcome:
        """Add a step to a claim, unless it already has it; the claim's other steps stay."""
        with self.journal_file.locked(self._lock_timeout):
            journal = self._load(check)
            old = journal.claims.get(claim)
            steps = old.steps if old else ()
            if step in steps:
                again = (*(other for other in steps if other != step), step)
                if not old or self._planned(journal, claim, steps) == self._planned(journal, claim, again):
                    return self._apply(journal, claim, steps, (), check)
                steps = again[:-1]  # a later step overrules it, so it is moved to the end
            return self._apply(journal, claim, (*steps, step), (step,), check)

    def _planned(self, journal: Journal, claim: str, steps: Tuple[Step, ...]) -> Dict[Address, str]:
        claims = {**journal.claims, claim: Claim(steps, ())}
        return self._fold(journal, claims, []).view.planned

    def once(self, step: Step, check: bool = False) -> Outcome:
        """Carry out one step that no claim owns: it is not journalled; `Outcome.prior` reverts it."""
        with self.journal_file.locked(self._lock_timeout):
            journal = self._load(check)
            claims = {**journal.claims, UNCLAIMED: Claim((step,), ())}
            plan = fold(self.resources, journal, claims, {}, only=lambda _address, author: author.claim == UNCLAIMED)
            if check:
                return self._outcome(plan, (step,), {})
            writer = self._writer(plan)
            try:
                actions = writer.run(plan, [step], UNCLAIMED)
            except Exception as error:
                # Also affinities that were to be kept: the kernel reset them.
                done = [*plan.changes, *plan.keeps, *writer.swept.get(UNCLAIMED, [])]
                back = self._fold_prior(journal, {change.address: change.before for change in done})
                undo = self._writer(back)
                raise _rolled_back(error, undo.restore(back), undo.skips) from error
            return self._outcome(plan, (step,), actions, writer)

    def revert(
        self, names: Optional[Iterable[str]] = None, check: bool = False, created_by: Optional[str] = None
    ) -> Outcome:
        """Restore what claims hold (all claims if None), except what the others still want.

        With `created_by`, only claims of that program.
        """
        asked = None if names is None else list(dict.fromkeys(names))
        with self.journal_file.locked(self._lock_timeout):
            journal = self._load(check)
            known = [name for name in journal.claims if created_by in (None, journal.claims[name].created_by)]
            leaving = [name for name in (known if asked is None else asked) if name in known]
            unknown = [name for name in asked or () if name not in known]
            warnings = self._warnings()
            if unknown:
                available = ", ".join(sorted(known)) or "none"
                warnings.append(f"there is no claim {', '.join(unknown)} on this host; there are: {available}")
            if not leaving:
                return Outcome(False, [], {}, {}, {"claims": []}, warnings)
            claims = {name: claim for name, claim in journal.claims.items() if name not in leaving}
            plan = self._fold(journal, claims, [journal.claims[name] for name in leaving])
            plan.view.notes["claims"] = leaving
            plan.view.warnings[:0] = warnings[len(self._warnings()) :]
            if check:
                return self._outcome(plan, (), {})._replace(changed=True)
            recorded = self._books.recorded(journal, journal.claims, plan)
            if recorded != journal:
                self.journal_file.save(recorded)
            writer = self._writer(plan)
            failures = writer.restore(plan)
            if failures:
                raise IsolationError(
                    f"not everything could be restored: {'; '.join(failures)}. The rest is restored, and the journal"
                    " still has these: fix the cause and run restore again"
                )
            left = recorded._replace(claims={name: recorded.claims[name] for name in claims})
            self.journal_file.save(self._books.pruned(*self._books.with_swept(left, plan, writer.swept), writer.skips))
            return self._outcome(plan, (), {}, writer)._replace(changed=True)

    def restore_prior(self, prior: Mapping[str, str], check: bool = False) -> Outcome:
        """Write back values that a module returned as `prior`. Raises IsolationError if one cannot be trusted."""
        values = dict(self.resources.parse(address, value) for address, value in prior.items())
        with self.journal_file.locked(self._lock_timeout):
            journal = self._load(check)
            plan = self._fold_prior(journal, values)
            if check:
                return self._outcome(plan, (), {})
            writer = self._writer(plan)
            failures = writer.restore(plan)
            if failures:
                raise IsolationError(f"not everything could be restored: {'; '.join(failures)}")
            return self._outcome(plan, (), {}, writer)

    def inspect(self) -> Tuple[Journal, Outcome]:
        """The journal, and as an outcome the drift: every setting that the claims would have otherwise."""
        with self.journal_file.locked(self._lock_timeout):
            journal = self.journal_file.load()
            return journal, self._outcome(self._fold(journal, journal.claims, []), (), {})

    def _load(self, check: bool) -> Journal:
        journal = self.journal_file.load()
        self.resources.systemd.reload_due()  # a note that cannot be trusted is found before anything is changed
        if not check:
            self.resources.cgroups.finish()
        return journal

    def _writer(self, plan: Plan) -> Writer:
        from .writer import Writer

        return Writer(self.resources, plan.view)

    def _fold(self, journal: Journal, claims: Mapping[str, Claim], leaving: Sequence[Claim]) -> Plan:
        held = {address for claim in leaving for address in claim.holds}
        restored = self._books.shared(journal, held) if held else {}
        steps = [step for claim in leaving for step in claim.steps]
        return fold(self.resources, journal, claims, restored, leaving=steps)

    def _fold_prior(self, journal: Journal, prior: Values) -> Plan:
        """The plan that restores saved values, unless the claims want otherwise."""
        return fold(self.resources, journal, journal.claims, prior, only=lambda address, _author: address in prior)

    def _carry_out(
        self,
        journal: Journal,
        claims: Dict[str, Claim],
        claim: str,
        plan: Plan,
        steps: Sequence[Step],
        replaces: bool,
    ) -> Outcome:
        """Journal first, then write.

        A claim that `replaces` its former steps holds what it held until all is written, in case the run is killed.
        """
        writer = self._writer(plan)
        before = journal
        try:
            journal = self._books.recorded(journal, claims, plan)
            self.journal_file.save(journal)
            try:
                actions = writer.run(plan, steps, claim)
            finally:
                journal, plan = self._books.with_swept(journal, plan, writer.swept)
            if replaces:
                now = journal.claims[claim]._replace(holds=tuple(plan.holds[claim]))
                journal = journal._replace(claims={**journal.claims, claim: now})
            skips = {**plan.view.skips.permanent(), **writer.skips.permanent()}
            self.journal_file.save(self._books.pruned(journal, plan, writer.skips)._replace(permanent_skips=skips))
        except Exception as error:
            raise _rolled_back(error, *self._roll_back(before, journal, claim)) from error
        return self._outcome(plan, steps, actions, writer)._replace(changed=True)

    def _roll_back(self, before: Journal, now: Journal, claim: str) -> Tuple[List[str], Skips]:
        """Go back to the former claims. Returns what could not be written, and what was skipped."""
        if claim not in now.claims:  # not even the journal could be written
            return [], Skips()
        plan = self._fold(now, before.claims, [now.claims[claim]])
        writer = self._writer(plan)
        failures = writer.restore(plan)
        if not failures:
            # Other claims may have been updated meanwhile: what they hold in addition must stay, too.
            claims = {name: before.claims[name] if name == claim else now.claims[name] for name in before.claims}
            right = {a for held in before.claims.values() for a in held.holds}.difference(before.baseline)
            baseline = {address: value for address, value in now.baseline.items() if address not in right}
            back = now._replace(baseline=baseline, claims=claims, permanent_skips=before.permanent_skips)
            try:
                back, plan = self._books.with_swept(back, plan, writer.swept)
                self.journal_file.save(self._books.pruned(back, plan, writer.skips))
            except IsolationError as error:
                failures.append(str(error))
        return failures, writer.skips

    def _warnings(self) -> List[str]:
        return [self.journal_file.warning] if self.journal_file.warning else []

    def _outcome(
        self,
        plan: Plan,
        steps: Sequence[Step],
        actions: Dict[str, Any],
        writer: Optional[Writer] = None,
    ) -> Outcome:
        skipped = {**plan.view.skips.reasons(), **(writer.skips.reasons() if writer else {})}
        changes = [change for change in plan.changes if change.address not in skipped]
        if writer:
            changes += [change for swept in writer.swept.values() for change in swept]
            plan.view.warnings.extend(writer.warnings)
        acts = any(STEPS[step.name].acts for step in steps)
        return Outcome(
            bool(changes) or acts,
            sorted(changes),
            skipped,
            actions,
            plan.view.notes,
            self._warnings() + plan.view.warnings,
            self.host.writes,
        )


def _rolled_back(error: Exception, failures: List[str], skips: Skips) -> IsolationError:
    what = sentence_of(error)
    if failures:
        return IsolationError(f"{what}. Rolling back failed in part: {'; '.join(failures)}. Run restore to continue")
    left = "; ".join(f"{address}: {reason}" for address, reason in skips.reasons().items())
    return IsolationError(f"{what}. Everything is back as it was{f', except {left}' if left else ''}")
