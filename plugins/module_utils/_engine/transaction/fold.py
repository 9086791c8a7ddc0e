# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""From claims to changes: the fold over the host's state, and the thread affinities that follow from it.

Nothing here writes.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import IsolationError
from ..kernel.cpuset import CPUS, EXISTS, PARTITION, TASK_CGROUP
from ..model import Address, Change, Claim, Journal, Values, of_kind
from ..planning.cpusets import is_partition
from ..planning.inheritors import plan_inheritors
from ..planning.view import NOBODY, Author, View
from ..planning.virtual_machines import warn_of_machines
from ..resources import Resources
from ..steps.catalog import STEPS
from ..strategy import Reservation
from ..text.cgroup_path import parent_of
from ..text.cpus import NONE, format_list
from .threads import Threads, plan_threads, resets_affinities

Only = Callable[[Address, Author], bool]


class Plan(NamedTuple):
    """What the claims require on this host."""

    changes: List[Change]
    # What is right, and must still be right after the cpusets change: threads' affinities, drop-ins.
    keeps: List[Change]
    view: View
    requested: Dict[Address, str]  # thread affinities to record
    given: Dict[Address, Tuple[str, ...]]  # what threads and tasks are given
    owed: Set[Address]  # what cannot be restored before CPUs are online again
    holds: Dict[str, Set[Address]]


def fold_claims(
    resources: Resources,
    journal: Journal,
    claims: Mapping[str, Claim],
    leaving: Sequence[Claim] = (),
    applied: Optional[str] = None,
) -> Plan:
    """Plan all claims, after others have left. What `applied` wants is evaluated, see `View`."""
    held = {address for claim in leaving for address in claim.holds}.union(journal.owed())
    return fold(resources, journal, claims, baseline_of(resources, journal, held), applied=applied)


def fold_prior(resources: Resources, journal: Journal, prior: Values) -> Plan:
    """The plan that restores saved values, unless the claims want otherwise."""
    return fold(resources, journal, journal.claims, prior, only=lambda address, _author: address in prior)


def baseline_of(resources: Resources, journal: Journal, held: Set[Address]) -> Dict[Address, str]:
    """The baseline of what leaving claims hold, and of all that adds up with it, which starts there for all."""
    kind = resources.kind
    families = {kind(address).family for address in held if kind(address).adds_up}
    return {
        address: value
        for address, value in journal.baseline.items()
        if address in held or (families and kind(address).adds_up and kind(address).family in families)
    }


def fold(
    resources: Resources,
    journal: Journal,
    claims: Mapping[str, Claim],
    restored: Values,
    *,
    only: Optional[Only] = None,
    applied: Optional[str] = None,
) -> Plan:
    """Plan all claims, one over the other.

    They are planned over the actual values, so what others may move (interrupts, within the host's CPUs) is satisfied
    as it is. Only the settings of claims that leave or change, and what is owed, `restored`, start from their baseline.
    `only` limits what may change, by address and author.
    """
    view = View(resources, journal, claims, restored, applied)
    _plan_leaving(view)
    _plan_claims(view)
    _check_partitions(view)
    warn_of_machines(view)
    _plan_moves(view)
    if only:
        view.sweeps = {source: sweep for source, sweep in view.sweeps.items() if sweep.claim == NOBODY.claim}
    wanted = _wanted(view, only)
    changes = [
        Change(address, view.actual(address) or "", value)
        for address, value in wanted.items()
        if view.actual(address) != value and not _is_gone(view, address)
    ]
    rewritten = resets_affinities(view, changes)
    keeps = [
        Change(address, value, value)
        for address, value in wanted.items()
        if rewritten and resources.kind(address).rewritten_with_cpusets and view.actual(address) == value
    ]
    requests = {a: value for a, value in view.restored.items() if resources.kind(a).records_request}
    narrowing = view.narrowing | {name for name, claim in journal.claims.items() if _affects_threads(resources, claim)}
    threads = Threads([], {}, {}, set())
    if rewritten or requests or (narrowing and not only) or NOBODY.claim in view.narrowing:
        threads = plan_threads(view, changes, requests if only else {})
    keeps += [change for change in threads.changes if rewritten and change.before == change.after]
    changes += [change for change in threads.changes if change.before != change.after]
    for change in changes:
        if change.address in journal.permanent_skips and change.address not in view.restored:
            view.skips.add(change.address, journal.permanent_skips[change.address], permanent=True)
    offline = {a for a in wanted if view.actual(a) is None and resources.kind(a).is_offline(a.name)}
    for address in offline:
        view.skips.add(address, "its CPUs are offline: it is set by the first run after they are online again")
    changes = [change for change in changes if change.address not in view.skips]
    moved = {a: (value,) for a, value in view.planned.items() if resources.kind(a).records_given}
    holds = {name: set(view.holds.get(name, ())) for name in claims}
    for name in view.narrowing & set(claims):
        holds[name].update(threads.requested)
    return Plan(changes, keeps, view, threads.requested, {**moved, **threads.given}, offline | threads.owed, holds)


def _plan_leaving(view: View) -> None:
    held = {address for claim in view.journal.claims.values() for address in claim.holds}
    plan_inheritors(view, held)
    if any(of_kind(view.restored, TASK_CGROUP)):
        from ..planning.tasks import plan_return  # few claims move tasks

        plan_return(view, held)


def _plan_claims(view: View) -> None:
    known = view.journal.claims
    for name, claim in view.claims.items():
        for position, step in enumerate(claim.steps):
            view.author = Author(name, position, step.name)
            was_known = name in known and known[name].steps[position : position + 1] == (step,)
            view.was_applied = was_known or bool(claim.granted_to(position))
            try:
                STEPS[step.name].plan(step.arguments, view)
            except IsolationError as error:
                if not view.was_applied:
                    raise
                # One claim must not keep another from being applied or reverted: what it holds stays as it is.
                view.warnings.append(f"claim {name}, step {position + 1} ({step.name}) cannot be planned now: {error}")
                view.restored = {a: v for a, v in view.restored.items() if a not in claim.holds}
    view.author = NOBODY


def _check_partitions(view: View) -> None:
    """Raise IsolationError if a step would take CPUs out of the partition of another step: that would invalidate it.

    Only for what is being applied: claims that stand must not keep each other from being reverted.
    """
    applied = (NOBODY.claim,) if view.applied is None else (NOBODY.claim, view.applied)
    conflict = next(filter(None, map(view.shared(Reservation).conflict, applied)), None)
    if conflict:
        raise IsolationError(f"cpus: {conflict}")
    for name, _value in view.to_come(PARTITION):
        partition = Address(PARTITION, name)
        if not is_partition(view.get, name) or partition not in view.planned:
            continue
        own = view.cpus(Address(CPUS, name))
        for sibling in view.children(parent_of(name)):
            listed = Address(CPUS, sibling)
            owners = [view.authors[address].claim for address in (partition, listed) if address in view.authors]
            shared = own & view.cpus(listed) if sibling != name and listed in view.planned else NONE
            if shared and len(owners) == 2 and set(owners).intersection(applied):
                raise IsolationError(
                    f"{sibling} cannot have CPU {format_list(shared)}, which the partition {name} has:"
                    f" {_step_of(view, listed)} wants the one, {_step_of(view, partition)} the other"
                )


def _step_of(view: View, address: Address) -> str:
    author = view.authors[address]
    return f"the step {author.step} of the claim {author.claim!r}" if author.claim else f"this step ({author.step})"


def _plan_moves(view: View) -> None:
    """Plan where tasks go that steps move, and tasks in cgroups that go away."""
    if not view.sweeps and all(value != "absent" for _name, value in view.to_come(EXISTS)):
        return
    from ..planning.tasks import plan_evacuation, resolve_targets  # few claims need either

    plan_evacuation(view)
    resolve_targets(view)


def _wanted(view: View, only: Optional[Only]) -> Dict[Address, str]:
    """The values that settings are to have; the affinities of threads follow from these."""
    kind = view.resources.kind
    wanted = {address: value for address, value in view.restored.items() if not kind(address).records_request}
    wanted.update(view.planned)
    if only:
        return {a: value for a, value in wanted.items() if a in view.following or only(a, view.authors.get(a, NOBODY))}
    return wanted


def _is_gone(view: View, address: Address) -> bool:
    """Whether a setting belongs to something that is gone and does not come back: nothing need be restored."""
    if view.actual(address) is not None:
        return False
    exists = view.resources.kind(address).depends_on(address.name)
    return view.get(exists) != "present" if exists else address not in view.planned


def _affects_threads(resources: Resources, claim: Claim) -> bool:
    kinds = (resources.kind(address) for address in claim.holds)
    return any(kind.resets_affinities or kind.records_request for kind in kinds)
