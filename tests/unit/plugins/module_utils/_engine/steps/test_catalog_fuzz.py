# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any list of steps: planned, or refused in a sentence, with the host as it was."""

from __future__ import annotations

import json
from typing import Any, Dict, List

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.steps.catalog import STEPS, read_steps
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Baseline
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import (
    changed_json,
    texts,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

ITEMS: List[Dict[str, Any]] = [
    {"drop_caches": {"sync": False}, "when": True},
    {
        "cpu_governor": {
            "governor": "performance",
            "cpus": "4-7",
            "energy_preference": "power",
            "if_unsupported": "skip",
        }
    },
    {"vfio.isolation.cpuset": {"path": "/a.slice", "cpus": ["0-3", 4], "mems": "N0", "partition": "member"}},
    {"cpuset": {"path": "/own.slice", "state": "absent"}},
    {"reserve_cpus": {"cpus": "node:1,^7", "emulator_cpus": "7", "strategy": "auto", "cgroup": "/machine.slice"}},
    {"move_tasks": {"source": "/user.slice/user-1000.slice", "target": "/own.slice"}},
    {"compact_memory": {"nodes": ["N0-1"]}},
    {"kthread_affinity": {"cpus": "0-3"}},
    {"irq_affinity": {"operation": "set", "cpus": "0-3", "irqs": [0], "names": ["nvme*"], "pci": ["0000:01:00.0"]}},
]


def is_planned_or_refused(items: Any) -> None:
    """On a host with a claim, in check mode."""
    with booted(Baseline(machine_slice=True)) as kernel:
        engine(kernel).apply("vm", [step("reserve_cpus", cpus="6", strategy="slices")])
        before = kernel.snapshot()
        try:
            engine(kernel).apply("other", read_steps(items), check=True)
        except IsolationError as error:
            assert str(error)
        assert kernel.snapshot() == before


@given(st.lists(st.sampled_from(ITEMS).flatmap(changed_json), max_size=3))
def test_any_items(items: List[Any]) -> None:
    is_planned_or_refused(items)


def arguments(name: str) -> st.SearchStrategy[Dict[str, Any]]:
    """Options of a step with anything for values."""
    spec = STEPS[name].ARGUMENTS
    choices = {o: st.sampled_from(spec[o].get("choices") or ["4-7", "/own.slice", "/", "0"]) for o in spec}
    given = {o: choices[o] | texts() | values() | st.lists(texts(), max_size=2) for o in spec}
    required = {o: given[o] for o in spec if spec[o].get("required")}
    return st.fixed_dictionaries(required, optional={o: given[o] for o in spec if o not in required})


@given(st.sampled_from(sorted(STEPS)).flatmap(lambda name: st.tuples(st.just(name), arguments(name))))
def test_any_arguments(item: Any) -> None:
    name, given_ = item
    is_planned_or_refused([json.loads(json.dumps({name: given_}))])
