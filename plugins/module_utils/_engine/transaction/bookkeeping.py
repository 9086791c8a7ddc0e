# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What the journal must contain before, between and after the writes of a run."""

from __future__ import annotations

from typing import Iterable, List, Mapping, Tuple

from ..model import Address, Change, Claim, Journal, Skips
from ..resources import Resources
from ..text.cpus import format_list, parse_list
from .fold import Plan

Swept = Mapping[str, List[Change]]


class Bookkeeping:
    """The journal's next states; nothing here writes."""

    def __init__(self, resources: Resources) -> None:
        self._kind = resources.kind
        self._everything = format_list(resources.topology.possible())

    def recorded(self, journal: Journal, claims: Mapping[str, Claim], plan: Plan) -> Journal:
        """The journal with the claims, and the baseline of what is about to be touched; saved values stay."""
        merged = {
            name: _holding(claim, plan.holds.get(name, ()))._replace(granted=plan.view.granted_to(name, claim))
            for name, claim in claims.items()
        }
        held = {address for claim in merged.values() for address in claim.holds}  # not what goes back with others
        baseline = {c.address: c.before for c in plan.changes if c.address in held and not self._is_request(c.address)}
        planned = {address for holds in plan.holds.values() for address in holds}
        right = {address for address in planned if self._kind(address).held_when_right}
        baseline.update({address: plan.view.actual(address) or "" for address in right})
        baseline.update({address: value for address, value in plan.view.recorded.items() if address in held})
        baseline.update(journal.baseline)
        baseline.update(plan.requested)
        # Until all is written, also if a run is killed, what was before counts as well.
        kept_off = format_list(plan.view.kept_off | parse_list(journal.kept_off))
        return self.with_requests(journal._replace(baseline=baseline, claims=merged, kept_off=kept_off), plan)

    @staticmethod
    def with_requests(journal: Journal, plan: Plan) -> Journal:
        """The journal with what those threads and tasks request, and are given, that it knows."""
        known = journal.baseline
        requested = {address: value for address, value in plan.requested.items() if address in known}
        new = {address: values for address, values in plan.given.items() if address in known}
        given = {a: tuple(dict.fromkeys((*journal.given.get(a, ()), *values))) for a, values in new.items()}
        return journal._replace(baseline={**known, **requested}, given={**journal.given, **given})

    def with_choices(self, journal: Journal, plan: Plan) -> Journal:
        """The journal with what threads have chosen anew: what they were given before counts no more."""
        known = journal.baseline
        chosen = {address: value for address, value in plan.requested.items() if known.get(address, value) != value}
        given = {address: values for address, values in plan.given.items() if address in chosen}
        journal = journal._replace(baseline={**known, **chosen}, given={**journal.given, **given})
        return self.with_newcomers(journal, plan)

    def with_newcomers(self, journal: Journal, plan: Plan) -> Journal:
        """The journal with the threads that no run of a claim has seen, held by the claims that narrow them.

        One that requested nothing needs no record: of such threads nobody knows more at a revert.
        """
        unseen = plan.requested.keys() - journal.baseline.keys()
        new = {address: plan.requested[address] for address in unseen if plan.requested[address] != self._everything}
        claims = {n: _holding(claim, plan.holds.get(n, set()) & new.keys()) for n, claim in journal.claims.items()}
        new = {a: value for a, value in new.items() if any(a in claim.holds for claim in claims.values())}
        given = {address: plan.given[address] for address in new}
        return journal._replace(baseline={**journal.baseline, **new}, claims=claims, given={**journal.given, **given})

    def with_swept(self, journal: Journal, plan: Plan, swept: Swept) -> Tuple[Journal, Plan]:
        """The journal and the plan with what was forked while tasks were moved."""
        first = {c.address: c.before for changes in swept.values() for c in reversed(changes)}  # if moved twice
        places = {address: before for address, before in first.items() if not self._is_request(address)}
        requested = {address: before for address, before in first.items() if self._is_request(address)}
        holds = {name: plan.holds[name] | {change.address for change in swept.get(name, ())} for name in plan.holds}
        claims = {name: _holding(claim, holds.get(name, ())) for name, claim in journal.claims.items()}
        baseline = {**places, **journal.baseline, **requested}
        last = {change.address: (change.after,) for changes in swept.values() for change in changes}
        given = {**plan.given, **last}
        plan = plan._replace(holds=holds, requested={**plan.requested, **requested}, given=given)
        return journal._replace(baseline=baseline, claims=claims), plan

    def pruned(self, journal: Journal, plan: Plan, skips: Skips) -> Journal:
        """The journal without settings that no claim holds any more, unless they are owed, and without ended threads.

        A setting that adds up and could not be restored while another claim lasts is held by that one, and goes with
        it; so are those of its family that appear anew when it is restored.
        """
        owed = {skip.address for skip in skips if self._kind(skip.address).adds_up}
        families = {self._kind(address).family for address in owed}
        for address in journal.baseline:
            kind = self._kind(address)
            if kind.rewritten_with_cpusets and kind.family in families:
                owed.add(address)
        claims = {}
        for name, claim in journal.claims.items():
            holds = {*plan.holds[name], *owed, *claim.holds}
            alive = (a for a in holds if not self._is_request(a) or a in plan.requested)
            claims[name] = claim._replace(holds=tuple(sorted(alive)))
        kept = plan.owed.union(*(claim.holds for claim in claims.values()))
        baseline = {address: value for address, value in journal.baseline.items() if address in kept}
        given = {a: values for a, values in {**journal.given, **plan.given}.items() if a in baseline}
        return journal._replace(baseline=baseline, claims=claims, kept_off=format_list(plan.view.kept_off), given=given)

    def _is_request(self, address: Address) -> bool:
        return self._kind(address).records_request


def _holding(claim: Claim, more: Iterable[Address]) -> Claim:
    return claim._replace(holds=tuple(sorted({*claim.holds, *more})))
