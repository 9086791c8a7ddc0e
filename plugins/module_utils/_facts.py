# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What can be read of a host without changing it: topology, what it supports, claims, drift."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from ._engine.errors import IsolationError
from ._engine.kernel.task import program
from ._engine.model import Change
from ._engine.strategy import choose
from ._engine.text.cpus import format_list
from ._engine.transaction.engine import Engine


def gather(engine: Engine) -> Tuple[Dict[str, Any], List[str]]:
    """The facts of a host, and warnings. CPUs are CPU lists. Raises IsolationError, such as for a foreign journal."""
    journal, drift = engine.inspect()
    resources = engine.resources
    version = resources.cgroups.version
    release = engine.host.kernel_release()
    best, why = _strategy("auto", version, release)
    facts = {
        "topology": resources.topology.facts(),
        "supported": _supported(engine, version, release, best),
        "strategy": drift.notes.get("strategy", best),
        "strategy_reason": drift.notes.get("strategy_reason", why),
        "claims": {
            name: {
                "steps": [{step.name: step.arguments} for step in claim.steps],
                "granted": [
                    {option: value for option, value in claim.granted_to(i).items() if option in step.arguments}
                    for i, step in enumerate(claim.steps)
                ],
                "created_by": claim.created_by,
            }
            for name, claim in journal.claims.items()
        },
        "vm_cpus": drift.notes.get("vm_cpus", ""),
        "host_cpus": drift.notes.get("host_cpus", format_list(resources.topology.online())),
        "drift": [_expected(change) for change in drift.changes],
        "new_kernel_threads": [
            {**_expected(change), "name": program(engine.host, change.address.name)} for change in drift.newcomers
        ],
        "left_alone": [{"address": str(a), "reason": reason} for a, reason in sorted(drift.skipped.items())],
        "virtual_machines": [
            {"process": machine.process, "name": machine.name, "cgroup": machine.cgroup}
            for machine in resources.virtual_machines.running()
        ],
        "owed": [{"address": str(a), "value": value} for a, value in sorted(journal.owed().items())],
    }
    return facts, drift.warnings


def _expected(change: Change) -> Dict[str, str]:
    return {"address": str(change.address), "expected": change.after, "actual": change.before}


def _strategy(asked: str, version: int, release: str) -> Tuple[Optional[str], str]:
    try:
        return choose(asked, version, release)
    except IsolationError as error:
        return None, str(error)


def _supported(engine: Engine, version: int, release: str, best: Optional[str]) -> Dict[str, Any]:
    resources = engine.resources
    policies = resources.cpufreq.policies()
    partitions = best == "partition"
    strategies = ["partition"] if partitions else []
    strategies += [name for name in ("slices", "tasks") if _strategy(name, version, release)[0]]
    return {
        "cgroup_version": version,
        "systemd": resources.systemd.running(),
        "partitions": partitions,
        "strategies": strategies,
        "cpufreq": bool(policies),
        "governors": sorted({governor for name, _cpus in policies for governor in resources.cpufreq.governors(name)}),
        "irqbalance": resources.irqbalance.running() is not None,
    }
