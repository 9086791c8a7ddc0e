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
from ..kernel.cpuset import TASK_AFFINITY, TASK_CGROUP
from ..kernel.host import Host
from ..model import Address, Change, Claim, Granted, Journal, Step
from ..resources import Resources
from ..steps.catalog import STEPS, complete
from .fold import Plan, fold, fold_claims, fold_prior
from .newcomers import apart
from .threads import requested_by_reset

if TYPE_CHECKING:  # otherwise only if something is to be written
    from .execution import Execution
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
    requested: Mapping[Address, str] = {}  # by threads that did not change, but would if others are restored
    newcomers: Sequence[Change] = ()  # not in `changes`: kernel threads that began since the last run, see `inspect`

    @property
    def prior(self) -> Dict[Address, str]:
        """Address -> value just before, of everything that changed; `Engine.restore_prior` takes it."""
        return {**self.requested, **{change.address: change.before for change in self.changes}}


class Engine:
    """The engine on one host."""

    def __init__(self, host: Host, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self.host = host
        self._lock_timeout = lock_timeout
        self.resources = Resources(host)
        self.journal_file = JournalFile(self.resources, complete)
        self._owed: List[str] = []  # by a killed run, which cannot be written back now

    def apply(
        self, claim: str, steps: Sequence[Step], check: bool = False, created_by: str = "", acts: bool = True
    ) -> Outcome:
        """Apply a claim, or bring the host back to it; with `check`, only report what that would change.

        Without `acts`, its actions do not run. If it fails, it raises IsolationError and leaves the host as it was.
        """
        with self.journal_file.locked(self._lock_timeout, check):
            journal = self._load(check)
            return self._apply(journal, claim, tuple(steps), tuple(steps) if acts else (), check, created_by)

    def apply_and_then(
        self, claim: str, steps: Sequence[Step], check: bool, then: Callable[[], T]
    ) -> Tuple[Outcome, T]:
        """Apply a claim, then do what belongs to it. If that fails, the claim is as before. Raises IsolationError."""
        with self.journal_file.locked(self._lock_timeout, check):
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
            except Exception as also:
                sentence = f"{what}. The claim {claim!r} is applied anyway: {sentence_of(also)}"
                raise IsolationError(sentence) from error
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
        granted = _still_granted(old, steps)
        claims[claim] = old._replace(steps=steps, granted=granted) if old else Claim(steps, (), created_by)
        changed_claim = old is None or old.steps != steps
        # A claim that only grows reverts nothing.
        leaving = [old] if old and old.steps != steps[: len(old.steps)] else []
        known = journal._replace(permanent_skips={}) if changed_claim else journal
        plan = fold_claims(self.resources, known, claims, leaving, claim)
        if old and not leaving and _lets_go(claims[claim].granted, plan.view.granted_to(claim, claims[claim])):
            changed_claim, leaving = True, [old]
            plan = fold_claims(self.resources, known, claims, leaving, claim)
        if not changed_claim and not plan.changes:
            if not check and any(journal.baseline.get(a) != value for a, value in plan.requested.items()):
                self._execution().save_choices(journal, plan)
            return self._outcome(plan, (), {})
        self._check_threads(plan)
        if check:
            return self._outcome(plan, acting, {})._replace(changed=True)
        done = self._execution().apply(journal, plan, claims, claim, acting, replaces=bool(leaving))
        return self._outcome(done.plan, acting, done.actions, done.writer)._replace(changed=True)

    def extend(self, claim: str, step: Step, check: bool = False) -> Outcome:
        """Add a step to a claim, unless it already has it; the claim's other steps stay."""
        with self.journal_file.locked(self._lock_timeout, check):
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
        return fold_claims(self.resources, journal, claims, applied=claim).view.planned

    def once(self, step: Step, check: bool = False) -> Outcome:
        """Carry out one step that no claim owns: it is not journalled; `Outcome.prior` reverts it."""
        with self.journal_file.locked(self._lock_timeout, check):
            journal = self._load(check)
            claims = {**journal.claims, UNCLAIMED: Claim((step,), ())}
            plan = fold(self.resources, journal, claims, {}, only=lambda _address, author: author.claim == UNCLAIMED)
            self._check_threads(plan)
            requested = requested_by_reset(plan.view, plan.changes, plan.requested)
            if check:
                return self._outcome(plan, (step,), {})._replace(requested=requested)
            done = self._execution().once(journal, plan, step)
            return self._outcome(plan, (step,), done.actions, done.writer)._replace(requested=requested)

    def revert(
        self, names: Optional[Iterable[str]] = None, check: bool = False, created_by: Optional[str] = None
    ) -> Outcome:
        """Restore what claims hold (all claims if None), except what the others still want.

        With `created_by`, only claims of that program.
        """
        asked = None if names is None else list(dict.fromkeys(names))
        with self.journal_file.locked(self._lock_timeout, check):
            journal = self._load(check)
            known = [name for name in journal.claims if created_by in (None, journal.claims[name].created_by)]
            leaving = [name for name in (known if asked is None else asked) if name in known]
            unknown = [name for name in asked or () if name not in known]
            warnings = self._warnings()
            if unknown:
                available = ", ".join(sorted(known)) or "none"
                warnings.append(f"there is no claim {', '.join(unknown)} on this host; there are: {available}")
            if not leaving and not journal.owed():
                return Outcome(False, [], {}, {}, {"claims": []}, warnings)
            claims = {name: claim for name, claim in journal.claims.items() if name not in leaving}
            plan = fold_claims(self.resources, journal, claims, [journal.claims[name] for name in leaving])
            self._check_threads(plan)
            plan.view.notes["claims"] = leaving
            plan.view.warnings[:0] = warnings[len(self._warnings()) :]
            writer = None if check else self._execution().revert(journal, plan, claims)
            outcome = self._outcome(plan, (), {}, writer)
            return outcome._replace(changed=outcome.changed or bool(leaving))

    def restore_prior(self, prior: Mapping[str, str], check: bool = False) -> Outcome:
        """Write back values that a module returned as `prior`. Raises IsolationError if one cannot be trusted."""
        values = dict(self.resources.parse(address, value) for address, value in prior.items())
        with self.journal_file.locked(self._lock_timeout, check):
            journal = self._load(check)
            plan = fold_prior(self.resources, journal, values)
            self._check_threads(plan)
            if check:
                return self._outcome(plan, (), {})
            return self._outcome(plan, (), {}, self._execution().restore(journal, plan))

    def inspect(self) -> Tuple[Journal, Outcome]:
        """The journal, and as an outcome the drift: every setting that the claims would have otherwise.

        Kernel threads that began since the last run have not drifted: the outcome has them as `newcomers`.
        """
        with self.journal_file.locked(self._lock_timeout, check=True):
            journal = self.journal_file.load()
            outcome = self._outcome(fold_claims(self.resources, journal, journal.claims), (), {})
            drift, newcomers = apart(self.resources, journal, outcome.changes)
            return journal, outcome._replace(changed=bool(drift), changes=drift, newcomers=newcomers)

    def _load(self, check: bool) -> Journal:
        journal = self.journal_file.load()
        self.resources.systemd.reload_due()  # a note that cannot be trusted is found before anything is changed
        if not check:
            self._owed = self.resources.cgroups.finish()
        return journal

    def _check_threads(self, plan: Plan) -> None:
        """Raise IsolationError if threads are to be bound or moved that we could not give back."""
        kinds = {change.address.kind for change in (*plan.changes, *plan.keeps)}
        if kinds & {TASK_AFFINITY, TASK_CGROUP}:
            self.host.check_may_bind()

    def _execution(self) -> Execution:
        from .execution import Execution  # a run that changes nothing does not need it

        return Execution(self.resources, self.journal_file)

    def _warnings(self) -> List[str]:
        return [*([self.journal_file.warning] if self.journal_file.warning else []), *self._owed]

    def _outcome(
        self,
        plan: Plan,
        steps: Sequence[Step],
        actions: Dict[str, Any],
        writer: Optional[Writer] = None,
    ) -> Outcome:
        if writer is None:
            for change in plan.changes:
                reason = self.resources.kind(change.address).why_not(change.address.name, change.after, plan.view.get)
                if reason:
                    plan.view.skips.add(change.address, reason)
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


def _still_granted(old: Optional[Claim], steps: Sequence[Step]) -> Tuple[Granted, ...]:
    """What was granted to those of a claim's steps that it had before."""
    return tuple(old.granted_to(i) if old and old.steps[i : i + 1] == (step,) else {} for i, step in enumerate(steps))


def _lets_go(before: Sequence[Granted], now: Sequence[Granted]) -> bool:
    """Whether the same options no longer come to what they did, as for a VM that was pinned anew; more is no matter."""
    pairs = ((old[option], new.get(option, "")) for old, new in zip(before, now) for option in old)
    return any(set(old.split("\n")) - set(new.split("\n")) for old, new in pairs)
