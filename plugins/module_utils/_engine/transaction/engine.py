# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""One engine for every door: apply a claim, give claims back, tell drift. All or nothing, under one lock."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import IsolationError, TimeLimit
from ..journal import JournalFile
from ..kernel.host import Host
from ..model import Change, Claim, Journal, Step
from ..resources import PLACE, THREAD, Resources
from ..steps.catalog import STEPS, complete
from ..text.cpus import format_list, parse_list
from .fold import Plan, fold
from .writer import Writer

LOCK_TIMEOUT = 60.0
# A claim of this name is never written to the journal: a single module's work that nobody named.
UNCLAIMED = ""


class Outcome(NamedTuple):
    """What was done, or in check mode what would be."""

    changed: bool
    changes: List[Change]
    skipped: Dict[str, str]
    actions: Dict[str, Any]
    notes: Dict[str, object]
    warnings: List[str]
    writes: int = 0

    @property
    def prior(self) -> Dict[str, str]:
        """Address -> value just before, of everything that changed; `Engine.restore_prior` takes it back."""
        return {change.address: change.before for change in self.changes}


class Engine:
    """The engine on one host."""

    def __init__(self, host: Host, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self.host = host
        self._lock_timeout = lock_timeout
        self.resources = Resources(host)
        self.journal_file = JournalFile(host, self.resources.check, complete)

    def apply(
        self, claim: str, steps: Sequence[Step], check: bool = False, created_by: str = "", acts: bool = True
    ) -> Outcome:
        """Make a claim, or bring the host back to it; with `check`, only tell what that would change.

        Without `acts`, its actions do not run. Raises IsolationError, with the host as it was before.
        """
        with self.journal_file.locked(self._lock_timeout):
            journal = self._load(check)
            return self._apply(journal, claim, tuple(steps), tuple(steps) if acts else (), check, created_by)

    def _apply(
        self,
        journal: Journal,
        claim: str,
        steps: Tuple[Step, ...],
        acting: Tuple[Step, ...],
        check: bool,
        created_by: str = "",
    ) -> Outcome:
        """Make the claim these steps; those of `acting` that are actions run where anything is to be done."""
        if not claim.isprintable() or not claim.strip() or len(claim) > 255:
            raise IsolationError(f"claim: {claim[:40]!r} is no name; expected 1 to 255 printable characters")
        old = journal.claims.get(claim)
        if old and old.created_by != created_by:
            whose = f"it is {old.created_by}'s" if old.created_by else f"{created_by} did not make it"
            raise IsolationError(
                f"claim: there is a claim {claim!r} already, and {whose}; take another name, or restore it first"
            )
        claims = dict(journal.claims)
        claims[claim] = Claim(steps, old.holds if old else (), created_by)
        changed_claim = old is None or old.steps != steps
        # A claim that only grows gives nothing back.
        leaving = [old] if old and old.steps != steps[: len(old.steps)] else []
        plan = self._fold(journal._replace(refused={}) if changed_claim else journal, claims, leaving)
        if not changed_claim and not plan.changes:
            return self._outcome(plan, (), {})
        if check:
            return self._outcome(plan, acting, {})._replace(changed=True)
        return self._carry_out(journal, claims, claim, plan, acting, replaces=bool(leaving))

    def extend(self, claim: str, step: Step, check: bool = False) -> Outcome:
        """Add a step to a claim, unless it is there already; the claim's other steps stand."""
        with self.journal_file.locked(self._lock_timeout):
            journal = self._load(check)
            old = journal.claims.get(claim)
            steps = old.steps if old else ()
            if step in steps:
                again = (*(other for other in steps if other != step), step)
                if not old or self._planned(journal, claim, steps) == self._planned(journal, claim, again):
                    return self._apply(journal, claim, steps, (), check)
                steps = again[:-1]  # a later step overrules it: it is to have the last word
            return self._apply(journal, claim, (*steps, step), (step,), check)

    def _planned(self, journal: Journal, claim: str, steps: Tuple[Step, ...]) -> Dict[str, str]:
        claims = {**journal.claims, claim: Claim(steps, ())}
        return self._fold(journal, claims, []).state.planned

    def once(self, step: Step, check: bool = False) -> Outcome:
        """Carry out one step that no claim owns: it is not journalled, `Outcome.prior` leads back."""
        with self.journal_file.locked(self._lock_timeout):
            journal = self._load(check)
            claims = {**journal.claims, UNCLAIMED: Claim((step,), ())}
            plan = fold(self.resources, journal, claims, {}, only=lambda _address, author: author.claim == UNCLAIMED)
            if check:
                return self._outcome(plan, (step,), {})
            writer = Writer(self.resources, plan.state)
            try:
                actions = writer.run(plan, [step], UNCLAIMED)
            except (IsolationError, TimeLimit) as error:
                done = [*plan.changes, *writer.swept.get(UNCLAIMED, [])]
                back = self._fold_prior(journal, {change.address: change.before for change in done})
                undo = Writer(self.resources, back.state)
                raise _rolled_back(error, undo.restore(back), undo.skipped) from error
            return self._outcome(plan, (step,), actions, writer)

    def revert(
        self, names: Optional[Iterable[str]] = None, check: bool = False, created_by: Optional[str] = None
    ) -> Outcome:
        """Give back what claims hold (all claims where None), but for what the others still want.

        With `created_by`, only claims of that program.
        """
        with self.journal_file.locked(self._lock_timeout):
            journal = self._load(check)
            there = [name for name in journal.claims if created_by in (None, journal.claims[name].created_by)]
            leaving = [name for name in (there if names is None else names) if name in there]
            unknown = [name for name in names or () if name not in there]
            warnings = self._warnings()
            if unknown:
                known = ", ".join(sorted(there)) or "none"
                warnings.append(f"there is no claim {', '.join(unknown)} on this host; there are: {known}")
            if not leaving:
                return Outcome(False, [], {}, {}, {"claims": []}, warnings)
            claims = {name: claim for name, claim in journal.claims.items() if name not in leaving}
            plan = self._fold(journal, claims, [journal.claims[name] for name in leaving])
            plan.state.notes["claims"] = leaving
            if check:
                return self._outcome(plan, (), {})._replace(changed=True)
            recorded = _recorded(journal, journal.claims, plan)
            if recorded != journal:
                self.journal_file.save(recorded)
            writer = Writer(self.resources, plan.state)
            failures = writer.restore(plan)
            if failures:
                raise IsolationError(
                    f"not everything could be given back: {'; '.join(failures)}. The rest is back, and the journal"
                    " still knows these: mend the cause and restore again"
                )
            left = recorded._replace(claims={name: recorded.claims[name] for name in claims})
            self.journal_file.save(_pruned(*_with_swept(left, plan, writer.swept), writer.skipped))
            return self._outcome(plan, (), {}, writer)._replace(changed=True)

    def restore_prior(self, prior: Mapping[str, str], check: bool = False) -> Outcome:
        """Write back values that a module returned as `prior`. Raises IsolationError where one is not to be trusted."""
        for address, value in prior.items():
            self.resources.check(address, value)
        with self.journal_file.locked(self._lock_timeout):
            journal = self._load(check)
            plan = self._fold_prior(journal, prior)
            if check:
                return self._outcome(plan, (), {})
            writer = Writer(self.resources, plan.state)
            failures = writer.restore(plan)
            if failures:
                raise IsolationError(f"not everything could be given back: {'; '.join(failures)}")
            return self._outcome(plan, (), {}, writer)

    def inspect(self) -> Tuple[Journal, Outcome]:
        """The journal, and as an outcome the drift: every setting that the claims would have otherwise."""
        with self.journal_file.locked(self._lock_timeout):
            journal = self.journal_file.load()
            return journal, self._outcome(self._fold(journal, journal.claims, []), (), {})

    def _load(self, check: bool) -> Journal:
        journal = self.journal_file.load()
        if not check:
            self.resources.cgroups.finish()
        return journal

    def _fold(self, journal: Journal, claims: Mapping[str, Claim], leaving: Sequence[Claim]) -> Plan:
        held = {address for claim in leaving for address in claim.holds}
        # Reservations add up in the cpusets of all, so those start from their baseline together.
        together = ("cgroup.", "systemd.") if any(address.startswith("cgroup.") for address in held) else ()
        restored = {a: value for a, value in journal.baseline.items() if a in held or a.startswith(together)}
        steps = [step for claim in leaving for step in claim.steps]
        return fold(self.resources, journal, claims, restored, leaving=steps)

    def _fold_prior(self, journal: Journal, prior: Mapping[str, str]) -> Plan:
        """What leads back to saved values, as far as the claims do not want otherwise."""
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

        A claim that `replaces` what it was holds what it held until all is written, for a run that is killed.
        """
        writer = Writer(self.resources, plan.state)
        before = journal
        try:
            journal = _recorded(journal, claims, plan)
            self.journal_file.save(journal)
            try:
                actions = writer.run(plan, steps, claim)
            finally:
                journal, plan = _with_swept(journal, plan, writer.swept)
            if replaces:
                now = journal.claims[claim]._replace(holds=tuple(plan.holds[claim]))
                journal = journal._replace(claims={**journal.claims, claim: now})
            pruned = _pruned(journal, plan, writer.skipped)
            self.journal_file.save(pruned._replace(refused={**plan.state.skipped, **writer.lasting}))
        except (IsolationError, TimeLimit) as error:
            raise _rolled_back(error, *self._roll_back(before, journal, claim)) from error
        return self._outcome(plan, steps, actions, writer)._replace(changed=True)

    def _roll_back(self, before: Journal, now: Journal, claim: str) -> Tuple[List[str], Dict[str, str]]:
        """Lead back to the claims that there were. Returns what could not be written, and what was left alone."""
        if claim not in now.claims:  # not even the journal could be written
            return [], {}
        plan = self._fold(now, before.claims, [now.claims[claim]])
        writer = Writer(self.resources, plan.state)
        failures = writer.restore(plan)
        if not failures:
            # Other claims may have been brought up to date meanwhile: what they hold more is owed, too.
            claims = {name: before.claims[name] if name == claim else now.claims[name] for name in before.claims}
            right = {a for held in before.claims.values() for a in held.holds}.difference(before.baseline)
            baseline = {address: value for address, value in now.baseline.items() if address not in right}
            back = now._replace(baseline=baseline, claims=claims, refused=before.refused)
            try:
                self.journal_file.save(_pruned(*_with_swept(back, plan, writer.swept), writer.skipped))
            except IsolationError as error:
                failures.append(str(error))
        return failures, writer.skipped

    def _warnings(self) -> List[str]:
        return [self.journal_file.warning] if self.journal_file.warning else []

    def _outcome(
        self,
        plan: Plan,
        steps: Sequence[Step],
        actions: Dict[str, Any],
        writer: Optional[Writer] = None,
    ) -> Outcome:
        skipped = {**plan.state.skipped, **(writer.skipped if writer else {})}
        changes = [change for change in plan.changes if change.address not in skipped]
        if writer:
            changes += [change for swept in writer.swept.values() for change in swept]
            plan.state.warnings.extend(writer.warnings)
        acts = any(hasattr(STEPS[step.name], "act") for step in steps)
        return Outcome(
            bool(changes) or acts,
            sorted(changes),
            skipped,
            actions,
            plan.state.notes,
            self._warnings() + plan.state.warnings,
            self.host.writes,
        )


def _recorded(journal: Journal, claims: Mapping[str, Claim], plan: Plan) -> Journal:
    """The journal with the claims, and the baseline of what is about to be touched; what is saved stays."""
    baseline = {change.address: change.before for change in plan.changes if not change.address.startswith(THREAD)}
    # A controller that is on is held where it is right, too: systemd may take it away.
    held = {address for holds in plan.holds.values() for address in holds if address.startswith("cgroup.controller:")}
    baseline.update({address: plan.state.actual(address) or "" for address in held})
    baseline.update(plan.state.requested_under_default)
    baseline.update(journal.baseline)
    baseline.update(plan.requested)
    merged = {
        name: claim._replace(holds=tuple(sorted({*claim.holds, *plan.holds.get(name, ())})))
        for name, claim in claims.items()
    }
    kept_off = plan.state.kept_off | parse_list(journal.kept_off)  # until all is written, also for a run that is killed
    return Journal(baseline, merged, format_list(kept_off), journal.refused)


def _with_swept(journal: Journal, plan: Plan, swept: Mapping[str, List[Change]]) -> Tuple[Journal, Plan]:
    """The journal and the plan with what was forked while tasks were moved."""
    first = {c.address: c.before for changes in swept.values() for c in reversed(changes)}  # where one moved on
    places = {address: before for address, before in first.items() if address.startswith(PLACE)}
    requested = {address: before for address, before in first.items() if address.startswith(THREAD)}
    holds = {name: plan.holds[name] | {change.address for change in swept.get(name, ())} for name in plan.holds}
    claims = {
        name: claim._replace(holds=tuple(sorted({*claim.holds, *holds.get(name, ())})))
        for name, claim in journal.claims.items()
    }
    baseline = {**places, **journal.baseline, **requested}
    plan = plan._replace(holds=holds, requested={**plan.requested, **requested})
    return journal._replace(baseline=baseline, claims=claims), plan


def _pruned(journal: Journal, plan: Plan, skipped: Mapping[str, str]) -> Journal:
    """The journal without what no claim holds any more, and without threads that have ended.

    A cgroup's setting that could not be given back while another claim lasts is held by that one, and goes with it.
    """
    owed = {address for address in skipped if address.startswith("cgroup.")}
    if owed:  # with the drop-ins that giving them back makes again
        owed.update(address for address in journal.baseline if address.startswith("systemd."))
    claims = {}
    for name, claim in journal.claims.items():
        holds = {*plan.holds[name], *owed, *claim.holds}
        alive = (a for a in holds if not a.startswith(THREAD) or a in plan.requested)
        claims[name] = claim._replace(holds=tuple(sorted(alive)))
    held = {address for claim in claims.values() for address in claim.holds}
    baseline = {address: value for address, value in journal.baseline.items() if address in held}
    return Journal(baseline, claims, format_list(plan.state.kept_off), journal.refused)


def _rolled_back(error: Exception, failures: List[str], skipped: Mapping[str, str]) -> IsolationError:
    if failures:
        return IsolationError(f"{error}. Rolling back failed in part: {'; '.join(failures)}. Run restore to go on")
    but = "; ".join(f"{address}: {reason}" for address, reason in sorted(skipped.items()))
    return IsolationError(f"{error}. Everything is back as it was{f', but for {but}' if but else ''}")
