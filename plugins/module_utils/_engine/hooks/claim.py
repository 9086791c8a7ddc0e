# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The claim of a virtual machine that starts: its configuration and pins, on the host as it is."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ..errors import IsolationError
from ..model import Claim, Step
from ..strategy import choose
from ..text.cgroup_path import is_within, normalized
from ..text.cpus import NONE, CpuSet, format_list, parse_list
from ..text.domain import Domain
from ..text.expression import Expression, evaluate, is_given
from ..text.topology import Topology
from .role_steps import items

AUTO, RESERVE, SHARE = "auto", "reserve", "share"
# What can be configured besides the variables of the role: whether the CPUs of the emulator are taken from the host.
DOMAIN_VARIABLES: Dict[str, Any] = {
    "isolate_emulator": {"type": "str", "choices": [AUTO, RESERVE, SHARE], "default": AUTO},
}


class HostContext(NamedTuple):
    """The host that a domain starts on."""

    topology: Topology
    version: int  # the cgroup version of the cpuset controller
    release: str  # the kernel's
    claims: Mapping[str, Claim] = {}  # without the domain's own
    # The cgroups beside the domain's in which tasks run for which no CPUs are reserved: a partition would confine them
    # to the domain's CPUs.
    others: Sequence[str] = ()
    unseen: Sequence[str] = ()  # virtual machines that could start there without anybody noticing


class Decision(NamedTuple):
    """The steps of the domain's claim, claims that must continue with other steps, and notes for the log."""

    items: List[Dict[str, Any]]
    changed: Dict[str, List[Step]]
    notes: List[str]


def decide(domain: Domain, variables: Mapping[str, Any], around: HostContext, creators: Sequence[str]) -> Decision:
    """What the start of a domain requires. Only claims of these creators are changed. Raises IsolationError."""
    domain, notes = _on_online_cpus(domain, around)
    vcpus = _given(variables["isolate_vm_cpus"], around, "isolate_vm_cpus") or domain.vcpus
    if not vcpus:
        raise IsolationError(
            f"{domain.title} does not say where its vCPUs run; add {domain.words.vcpus} ({domain.edit})"
        )
    cgroup = normalized(variables["isolate_cgroup"] or domain.cgroup)
    asked = variables["isolate_strategy"]
    strategy = _strategy(asked, around, cgroup, vcpus | domain.emulator)
    lasting = lasting_partition(around, cgroup, creators)
    emulator, shares = _emulator(domain, variables, vcpus, around, lasting)
    # In a partition, threads that are not pinned have its CPUs, otherwise they have all of the host.
    always_hangs = domain.why_starving(around.topology.online())
    hangs = "" if always_hangs else domain.why_starving(emulator)
    if always_hangs:
        notes.append(f"the domain may hang: {always_hangs}")
    reasons = _reasons(domain, around, emulator, shares) + ([hangs] if hangs else [])
    kind, balanced = variables["isolate_partition_type"], domain.why_balanced()
    at_boot = (vcpus | emulator) & around.topology.isolated_at_boot()
    if balanced and at_boot:
        # In no partition, they are at least distributed when they are bound to their CPUs.
        reasons.append(f"{balanced}, and Linux spreads no threads over CPUs isolated at boot (isolcpus=)")
    changed: Dict[str, List[Step]] = {}
    if reasons and strategy == "partition":
        if asked == "auto" and not lasting:
            asked = strategy = "slices"
            notes.append(f"strategy slices, because {' and '.join(reasons)}")
        else:
            notes.append(f"a partition, though {' and '.join(reasons)}")
    if reasons and strategy != "partition":
        changed = relaxed(around, cgroup, creators, emulator if shares else NONE)
    if strategy == "partition":
        _check_partition(domain, vcpus, emulator, shares and _how(variables) == SHARE, hangs)
        if balanced and kind == "auto" and not at_boot:
            kind = "root"
            notes.append(f"partition type root, because {balanced}")
        elif balanced and kind == "isolated":
            notes.append(f"partition type isolated, though {balanced}")
    else:
        _check_lasting(domain, cgroup, lasting)
        if shares:
            notes.append(f"its emulator shares CPUs {format_list(emulator)} with the host")
            emulator = NONE
    complete = {
        **variables,
        "isolate_vm_cpus": format_list(vcpus),
        "isolate_emulator_cpus": format_list(emulator - vcpus),
        "isolate_strategy": asked,
        "isolate_partition_type": kind,
        "isolate_cgroup": cgroup,
    }
    return Decision(items(complete), changed, notes)


def _strategy(asked: str, around: HostContext, cgroup: str, cpus: CpuSet) -> str:
    return choose(asked, around.version, around.release, cgroup, cpus & around.topology.isolated_at_boot())[0]


def _check_partition(domain: Domain, vcpus: CpuSet, emulator: CpuSet, must_share: bool, hangs: str) -> None:
    """Raise IsolationError if a domain cannot run in a partition with these CPUs."""
    if must_share:
        raise IsolationError(
            f"{domain.title} has its emulator on CPUs {format_list(emulator)}, which it is to share with"
            " the host, and a partition shares no CPUs; use isolate_strategy: slices, or isolate_emulator: reserve"
        )
    if hangs:
        raise IsolationError(f"{domain.title} would hang in a partition: {hangs}, or use isolate_strategy: slices")
    pinned = domain.vcpus | domain.emulator
    if pinned - vcpus - emulator:
        raise IsolationError(
            f"{domain.title} is pinned to CPUs {format_list(pinned)}, but its claim has"
            f" {format_list(vcpus | emulator)}: in a partition the kernel gives its threads no others. Add"
            f" {format_list(pinned - vcpus - emulator)} to isolate_emulator_cpus, or use isolate_strategy: slices"
        )


def _check_lasting(domain: Domain, cgroup: str, lasting: CpuSet) -> None:
    """Raise IsolationError if a domain has CPUs outside of the partition that its cgroup is in, and that must stay."""
    pinned = domain.vcpus | domain.emulator
    if lasting and pinned - lasting:
        raise IsolationError(
            f"{domain.title} is pinned to CPUs {format_list(pinned)}, but {cgroup} is in a partition that"
            f" has {format_list(lasting)}: the kernel gives its threads no others. Use isolate_strategy: partition, or"
            f" {domain.words.move}"
        )


def _emulator(
    domain: Domain, variables: Mapping[str, Any], vcpus: CpuSet, around: HostContext, lasting: CpuSet
) -> Tuple[CpuSet, bool]:
    """The CPUs of emulator and I/O threads, and whether they are shared with the host instead of reserved.

    Many domains have their emulator on CPUs of the host: on CPU 0, which hosts rarely do without, or on all that the
    vCPUs leave. A partition cannot share CPUs.
    """
    given, how = _given(variables["isolate_emulator_cpus"], around, "isolate_emulator_cpus"), _how(variables)
    if given:
        return given, False
    if how != AUTO:
        return domain.emulator, how == SHARE and bool(domain.emulator - vcpus)
    all_left = not around.topology.online() - vcpus - domain.emulator - _taken(around)
    return domain.emulator, (all_left or 0 in domain.emulator - vcpus) and not lasting


def _how(variables: Mapping[str, Any]) -> str:
    """What is to happen to the emulator's CPUs; if the variable that names them is empty, none are reserved."""
    return SHARE if variables["isolate_emulator_cpus"] in ("", []) else str(variables["isolate_emulator"])


def _on_online_cpus(domain: Domain, around: HostContext) -> Tuple[Domain, List[str]]:
    """The domain without the offline CPUs of its pins, and a note for these: the kernel does without them, too.

    Raises IsolationError if nothing is left of a pin.
    """
    online, possible, notes = around.topology.online(), around.topology.possible(), []
    for part, cpus, pin in (
        ("vCPUs", domain.vcpus, domain.words.vcpus),
        ("emulator and I/O threads", domain.emulator, domain.words.emulator),
    ):
        offline = (cpus & possible) - online
        if offline and offline == cpus:
            raise IsolationError(
                f"{domain.title} has its {part} pinned to CPUs {format_list(cpus)}, and none of these is"
                f" online; online are {format_list(online)}. Put one of them online, or change {pin}"
                f" ({domain.edit})"
            )
        if offline:
            notes.append(
                f"its {part} are pinned to CPUs {format_list(offline)}, too, which are offline and not reserved"
            )
    return domain.without(possible - online), notes


def _reasons(domain: Domain, around: HostContext, emulator: CpuSet, shares: bool) -> List[str]:
    """Why a partition is not suitable."""
    reasons = [f"no CPUs are reserved for what runs in {', '.join(around.others)}"] if around.others else []
    if around.unseen:
        reasons.append(f"nobody would notice the start of {', '.join(around.unseen)}, without this hookscript")
    if shares:
        reasons.append(f"its emulator is pinned to the host's CPUs {format_list(emulator)}")
    if domain.is_placed and not emulator:
        reasons.append("libvirt places its emulator itself (placement='auto')")
    return reasons


def lasting_partition(around: HostContext, cgroup: str, creators: Sequence[str]) -> CpuSet:
    """The CPUs of the partition that a cgroup is in and that must stay: it was requested, or another creator's."""
    found = NONE
    for claim in reserving(around.claims, cgroup).values():
        for position, step in enumerate(claim.steps):
            if not _reserves(claim, position, cgroup):
                continue
            asked, cpus = step.arguments["strategy"], _cpus_of(claim, position, around)
            is_partition = _strategy(asked, around, _path(claim, position), cpus) == "partition"
            if is_partition and (asked == "partition" or claim.created_by not in creators):
                found |= cpus
    return found


def relaxed(around: HostContext, cgroup: str, creators: Sequence[str], shared: CpuSet = NONE) -> Dict[str, List[Step]]:
    """The claims that must give up a partition around a cgroup, if their strategy allows it, with steps that do so.

    They no longer reserve CPUs for emulators that are `shared` with the host.
    """
    found = {}
    for name, claim in reserving(around.claims, cgroup).items():
        if claim.created_by in creators:
            steps = [
                _relax(claim, i, around, shared) if _reserves(claim, i, cgroup) else step
                for i, step in enumerate(claim.steps)
            ]
            if tuple(steps) != claim.steps:
                found[name] = steps
    return found


def reserving(claims: Mapping[str, Claim], cgroup: str) -> Dict[str, Claim]:
    """The claims that reserve CPUs for what is in a cgroup: for that one, or for one above it."""
    return {
        name: claim
        for name, claim in claims.items()
        if any(_reserves(claim, position, cgroup) for position in range(len(claim.steps)))
    }


def _reserves(claim: Claim, position: int, cgroup: str) -> bool:
    return claim.steps[position].name == "reserve_cpus" and is_within(cgroup, _path(claim, position))


def _path(claim: Claim, position: int) -> str:
    """The cgroup of a reservation; if it is looked for, the one that was found."""
    return claim.granted_to(position).get("cgroup") or normalized(claim.steps[position].arguments["cgroup"])


def _relax(claim: Claim, position: int, around: HostContext, shared: CpuSet) -> Step:
    step, cpus = claim.steps[position], _cpus_of(claim, position, around)
    given = dict(step.arguments)
    if given["strategy"] == "auto" and _strategy("auto", around, _path(claim, position), cpus) == "partition":
        given["strategy"] = "slices"
    if given["strategy"] != "partition" and is_given(given["emulator_cpus"]) and shared:
        emulator = evaluate(given["emulator_cpus"], around.topology, "emulator_cpus", must_be_online=False)
        given["emulator_cpus"] = "" if emulator & shared else given["emulator_cpus"]
    return step._replace(arguments=given)


def _taken(around: HostContext) -> CpuSet:
    """The CPUs of the other claims."""
    found = (
        _cpus_of(claim, position, around)
        for claim in around.claims.values()
        for position, step in enumerate(claim.steps)
        if step.name == "reserve_cpus"
    )
    return NONE.union(*found)


def _cpus_of(claim: Claim, position: int, around: HostContext) -> CpuSet:
    """The CPUs that a step reserves, offline or not: as granted, or as evaluated if that was not recorded."""
    granted, found = claim.granted_to(position), NONE
    for option in ("cpus", "emulator_cpus"):
        given = claim.steps[position].arguments[option]
        if option in granted:
            found |= parse_list(granted[option])
        elif is_given(given):
            found |= evaluate(given, around.topology, option, must_be_online=False)
    return found


def _given(expression: Expression, around: HostContext, option: str) -> CpuSet:
    return evaluate(expression, around.topology, option) if is_given(expression) else NONE
