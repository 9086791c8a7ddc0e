# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The claim of a libvirt domain: the variables that are configured for it, with the CPUs that its XML says. Pure."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from ._cpus import NONE, CpuSet, format_list
from ._domain import PIN_VCPUS, Domain
from ._errors import IsolationError
from ._expression import Expression, Topology, evaluate
from ._job import items
from ._journal import Claim, Step
from ._steps.reserve_cpus import choose


class Surroundings(NamedTuple):
    """The host that a domain starts on."""

    topology: Topology
    version: int  # of the cpuset controller's cgroup
    release: str  # the kernel's
    claims: Mapping[str, Claim] = {}  # without the domain's own
    # The cgroups beside the domain's in which something runs that no CPUs are reserved for: a partition would confine
    # it to the domain's CPUs.
    others: Sequence[str] = ()

    @property
    def has_partitions(self) -> bool:
        """Whether a claim that leaves the choice gets one."""
        return choose("auto", self.version, self.release)[0] == "partition"


class Decision(NamedTuple):
    """The steps of the domain's claim, claims that must go on with other steps, and what their owner should know."""

    items: List[Dict[str, Any]]
    changed: Dict[str, List[Step]]
    notes: List[str]


def decide(domain: Domain, variables: Mapping[str, Any], around: Surroundings, makers: Sequence[str]) -> Decision:
    """What a domain's start comes to. Only claims of these makers are changed. Raises IsolationError."""
    vcpus = _given(variables["isolate_vm_cpus"], around, "isolate_vm_cpus") or domain.vcpus
    if not vcpus:
        raise IsolationError(
            f"the domain {domain.name!r} does not say where its vCPUs run; add {PIN_VCPUS} (virsh edit {domain.name})"
        )
    wanted = _given(variables["isolate_emulator_cpus"], around, "isolate_emulator_cpus")
    emulator = wanted or domain.emulator
    cgroup = "/" + (variables["isolate_cgroup"] or domain.cgroup).strip("/")
    asked = variables["isolate_strategy"]
    strategy, _reason = choose(asked, around.version, around.release)
    # Many a domain has its emulator where the host is. Then they share these CPUs, which a partition cannot do.
    shares = not wanted and not around.topology.online() - vcpus - emulator - _taken(around)
    reasons = [f"in {', '.join(around.others)} runs what no CPUs are reserved for"] if around.others else []
    reasons += [f"its emulator is pinned to the host's CPUs {format_list(emulator)}"] if shares else []
    notes: List[str] = []
    if reasons and strategy == "partition":
        if asked == "auto":
            asked = strategy = "slices"
            notes.append(f"strategy slices, for {' and '.join(reasons)}")
        elif around.others:
            notes.append(f"what runs in {', '.join(around.others)} is confined to the CPUs of the partition")
    changed: Dict[str, List[Step]] = {}
    if reasons and strategy != "partition":
        changed = relaxed(around, cgroup, makers, emulators=not shares)
    emulator = NONE if shares and strategy != "partition" else emulator
    elsewhere = (domain.vcpus | domain.emulator) - vcpus - emulator
    if elsewhere and strategy == "partition":
        raise IsolationError(
            f"the domain {domain.name!r} is pinned to CPUs {format_list(domain.vcpus | domain.emulator)}, but its claim"
            f" has {format_list(vcpus | emulator)}: in a partition the kernel gives its threads no others. Add"
            f" {format_list(elsewhere)} to isolate_emulator_cpus, or use isolate_strategy: slices"
        )
    if strategy == "partition" and not domain.emulator:
        notes.append("its emulator is not pinned, so it runs on the CPUs of its vCPUs")
    complete = {
        **variables,
        "isolate_vm_cpus": format_list(vcpus),
        "isolate_emulator_cpus": format_list(emulator - vcpus),
        "isolate_strategy": asked,
        "isolate_cgroup": cgroup,
    }
    return Decision(items(complete), changed, notes)


def relaxed(around: Surroundings, cgroup: str, makers: Sequence[str], emulators: bool) -> Dict[str, List[Step]]:
    """The claims for a cgroup that must go on without a partition, where they leave the choice, with steps that do.

    Unless `emulators`, they no longer reserve CPUs for emulators.
    """
    found = {}
    for name, claim in reserving(around.claims, cgroup).items():
        if claim.maker in makers:
            steps = [
                _relax(step, around.has_partitions, emulators) if _reserves(step, cgroup) else step
                for step in claim.steps
            ]
            if tuple(steps) != claim.steps:
                found[name] = steps
    return found


def reserving(claims: Mapping[str, Claim], cgroup: str) -> Dict[str, Claim]:
    """The claims that reserve CPUs for what is in a cgroup."""
    return {name: claim for name, claim in claims.items() if any(_reserves(step, cgroup) for step in claim.steps)}


def _reserves(step: Step, cgroup: str) -> bool:
    return step.name == "reserve_cpus" and "/" + step.arguments["cgroup"].strip("/") == cgroup


def _relax(step: Step, has_partitions: bool, emulators: bool) -> Step:
    given = dict(step.arguments)
    if given["strategy"] == "auto" and has_partitions:
        given["strategy"] = "slices"
    if not emulators and given["strategy"] != "partition":
        given["emulator_cpus"] = ""
    return step._replace(arguments=given)


def _taken(around: Surroundings) -> CpuSet:
    """The CPUs of the other claims, offline or not."""
    taken = NONE
    for claim in around.claims.values():
        for step in claim.steps:
            for option in ("cpus", "emulator_cpus") if step.name == "reserve_cpus" else ():
                expression = step.arguments[option]
                if expression not in (None, "", []):
                    taken |= evaluate(expression, around.topology, option, must_be_online=False)
    return taken


def _given(expression: Expression, around: Surroundings, option: str) -> CpuSet:
    return NONE if expression in (None, "", []) else evaluate(expression, around.topology, option)
