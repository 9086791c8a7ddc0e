# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The claim of a libvirt domain: the variables that are configured for it, with the CPUs that its XML says. Pure."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ._cpus import NONE, CpuSet, format_list
from ._domain import PIN_VCPUS, Domain
from ._errors import IsolationError
from ._expression import Expression, Topology, evaluate
from ._job import items
from ._journal import Claim, Step
from ._steps.reserve_cpus import choose


def claim_of(
    domain: Domain, variables: Mapping[str, Any], topology: Topology, version: int, release: str, others: Sequence[str]
) -> Tuple[List[Dict[str, Any]], List[str]]:
    """The steps of the domain's claim, and what its owner should know. Raises IsolationError.

    `version` is that of the cpuset controller's cgroup, `release` the kernel's. `others` are the cgroups beside the
    domain's in which something runs that no CPUs are reserved for: a partition would confine it to the domain's CPUs.
    """
    vcpus = _given(variables["isolate_vm_cpus"], topology, "isolate_vm_cpus") or domain.vcpus
    if not vcpus:
        raise IsolationError(
            f"the domain {domain.name!r} does not say where its vCPUs run; add {PIN_VCPUS} (virsh edit {domain.name})"
        )
    emulator = _given(variables["isolate_emulator_cpus"], topology, "isolate_emulator_cpus") or domain.emulator
    asked = variables["isolate_strategy"]
    strategy, _reason = choose(asked, version, release)
    notes: List[str] = []
    if others and strategy == "partition":
        if asked == "auto":
            asked = strategy = "slices"
            notes.append(f"strategy slices, for in {', '.join(others)} runs what no CPUs are reserved for")
        else:
            notes.append(f"what runs in {', '.join(others)} is confined to the CPUs of the partition")
    if not topology.online() - vcpus - emulator:
        # As in many a domain with a few CPUs: its emulator runs where the host does.
        if strategy == "partition" and asked == "auto":
            asked = strategy = "slices"
            notes.append(f"strategy slices, for its emulator is pinned to the host's CPUs {format_list(emulator)}")
        if strategy != "partition":
            emulator = NONE
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
        "isolate_cgroup": variables["isolate_cgroup"] or domain.cgroup,
    }
    return items(complete), notes


def reserving(claims: Mapping[str, Claim], cgroup: str) -> Dict[str, Claim]:
    """The claims that reserve CPUs for what is in a cgroup."""
    return {name: claim for name, claim in claims.items() if any(_reserves(step, cgroup) for step in claim.steps)}


def without_partition(claims: Mapping[str, Claim], cgroup: str) -> Dict[str, List[Step]]:
    """Those of them that leave the choice of a strategy, with steps that take another one than a partition."""
    changed = {
        name: [_with_slices(step) if _reserves(step, cgroup) else step for step in claim.steps]
        for name, claim in reserving(claims, cgroup).items()
    }
    return {name: steps for name, steps in changed.items() if tuple(steps) != claims[name].steps}


def _reserves(step: Step, cgroup: str) -> bool:
    return step.name == "reserve_cpus" and "/" + step.arguments["cgroup"].strip("/") == cgroup


def _with_slices(step: Step) -> Step:
    asked = step.arguments["strategy"]
    return step._replace(arguments={**step.arguments, "strategy": "slices" if asked == "auto" else asked})


def _given(expression: Expression, topology: Topology, option: str) -> CpuSet:
    return NONE if expression in (None, "", []) else evaluate(expression, topology, option)
