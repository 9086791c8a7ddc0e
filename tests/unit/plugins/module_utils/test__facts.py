# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The facts of a host: who made its claims, and which CPUs are whose."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Claim, Journal
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.plugins.module_utils._facts import gather
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import (
    CPU,
    POSSIBLE,
    Topology,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.host_v1 import V1


def facts(host: Engine) -> Dict[str, Any]:
    """Without the warnings."""
    found, warnings = gather(host)
    assert warnings == []
    return found


def without_cpu(kernel: FakeKernel, cpu: int) -> None:
    """A CPU is there, and offline."""
    kernel.files[f"{CPU}/present"] = "0-7"
    kernel.part(Topology).online = POSSIBLE - {cpu}


def test_who_made_a_claim_is_shown() -> None:
    with booted() as kernel:
        governor = step("cpu_governor", governor="performance")
        engine(kernel).apply("by hand", [governor])
        engine(kernel).apply("win11", [governor], created_by="libvirt")
        claims = facts(engine(kernel))["claims"]
        assert {name: claim["created_by"] for name, claim in claims.items()} == {"by hand": "", "win11": "libvirt"}
        assert claims["win11"]["steps"] == [{"cpu_governor": governor.arguments}]


@pytest.mark.parametrize("strategy", ["partition", "slices"])
def test_an_offline_cpu_is_none_of_the_host_s(strategy: str) -> None:
    with booted() as kernel:
        without_cpu(kernel, 2)
        assert facts(engine(kernel))["host_cpus"] == "0-1,3-7"
        engine(kernel).apply("vm", [step("reserve_cpus", cpus="4-5", strategy=strategy)])
        found = facts(engine(kernel))
        assert (found["strategy"], found["vm_cpus"], found["host_cpus"]) == (strategy, "4-5", "0-1,3,6-7")
        kernel.part(Topology).online = POSSIBLE
        assert facts(engine(kernel))["host_cpus"] == "0-3,6-7"


def test_an_offline_cpu_is_none_of_the_host_s_on_cgroup_v1(tmp_path: Any) -> None:
    host = Engine(FakeHost(str(tmp_path), {**V1, f"{CPU}/online": "0-1,3-7"}))
    assert facts(host)["host_cpus"] == "0-1,3-7"
    with host.journal_file.locked(1):
        host.journal_file.save(Journal({}, {"vm": Claim((step("reserve_cpus", cpus="4-5"),), ())}))
    found = facts(Engine(host.host))
    assert (found["strategy"], found["vm_cpus"], found["host_cpus"]) == ("tasks", "4-5", "0-1,3,6-7")


def test_a_host_without_claims_has_all_its_cpus_and_the_best_strategy() -> None:
    with booted() as kernel:
        found = facts(engine(kernel))
        assert (found["claims"], found["drift"], found["left_alone"], found["vm_cpus"]) == ({}, [], [], "")
        assert (found["strategy"], found["host_cpus"]) == ("partition", "0-7")
        assert found["supported"]["strategies"] == ["partition", "slices"]


def test_what_a_claim_was_granted_and_what_is_owed_is_shown() -> None:
    with booted() as kernel:
        governor, unbound = step("cpu_governor", cpus="4-7", governor="performance"), step("kthread_affinity", cpus="6")
        engine(kernel).apply("quiet", [governor])
        engine(kernel).apply("vm", [step("compact_memory"), unbound])
        kernel.hotplug(POSSIBLE - {6, 7})
        engine(kernel).revert(["quiet"])
        found = facts(engine(kernel))
        assert found["claims"]["vm"]["granted"] == [{}, {"cpus": "6"}]
        assert {"address": "cpufreq.governor:policy3", "value": "schedutil"} in found["owed"]
        kernel.hotplug(POSSIBLE)
        engine(kernel).revert()
        assert facts(engine(kernel))["owed"] == []
