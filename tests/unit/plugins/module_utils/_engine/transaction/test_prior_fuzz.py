# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values to write back that anybody may have written: each is refused in a sentence, or may be written."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step, whole_job
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Baseline
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import (
    changed_json,
    changed_text,
    texts,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

PRIOR = {
    "irq.affinity:0": "0-7",
    "irq.default:": "0-7",
    "cgroup.exists:/machine.slice": "absent",
    "cgroup.cpus:/machine.slice": "",
    "cgroup.mems:/system.slice": "0-1",
    "cgroup.partition:/machine.slice": "member",
    "cgroup.controller:/": "disabled",
    "systemd.AllowedCPUs:system.slice": "0-3 insisted",
    "systemd.AllowedCPUs:machine.slice": "none",
    "task.affinity:108:5108": "1-2",
    "task.cgroup:110:5110": "/user.slice/user-1000.slice",
    "cpufreq.governor:policy0": "schedutil",
    "irqbalance.banned:5:7": "4-7",
}


def is_written_or_refused(prior: Any, isolated: bool) -> None:
    """With a claim on the host and without one."""
    with booted(Baseline(machine_slice=True)) as kernel:
        if isolated:
            engine(kernel).apply("vm", whole_job("4-7", "partition"))
        before = kernel.snapshot()
        kernel.log.clear()
        try:
            outcome = engine(kernel).restore_prior(prior, check=True)
            assert kernel.log == [] and kernel.snapshot() == before
            assert engine(kernel).restore_prior(prior).changes or not outcome.changes
        except IsolationError as error:
            if "not everything could be restored" not in str(error):
                assert kernel.log == [] and kernel.snapshot() == before


@given(changed_json(PRIOR).filter(lambda prior: isinstance(prior, dict)), st.booleans())
def test_any_value_and_any_address(prior: Dict[str, Any], isolated: bool) -> None:
    is_written_or_refused(prior, isolated)


@given(
    st.dictionaries(
        st.sampled_from(sorted(PRIOR)).flatmap(changed_text), texts() | values() | st.just("4-7"), max_size=3
    ),
    st.booleans(),
)
def test_addresses_that_are_almost_right(prior: Dict[str, Any], isolated: bool) -> None:
    is_written_or_refused(prior, isolated)


@pytest.mark.parametrize("value", ["3,1", "0-7:1/2", " 1", "01", "1,2", "insisted"])
def test_a_list_in_another_form_than_it_is_read_is_refused(value: str) -> None:
    """The kernel would take it, and what is read back would not be what was written."""
    for address in ("irq.affinity:0", "cgroup.cpus:/machine.slice", "systemd.AllowedCPUs:machine.slice"):
        with booted() as kernel, pytest.raises(IsolationError, match="cannot hold"):
            engine(kernel).restore_prior({address: value})


CGROUP_KINDS = ("cpus", "mems", "exists", "partition", "controller")
TOO_LONG = ("/a" * 3000, "/a" * 100000, "/" + "b" * 256, "/" + "é" * 128, "/x" + "\x01" * 4096)
JUST_SHORT_ENOUGH = ("/a" * 1999, "/" + "b" * 255, "/" + "é" * 127, "/".join(["", *["c" * 249] * 15]))


@pytest.mark.parametrize("name", TOO_LONG, ids=len)
def test_a_name_that_no_file_can_have_is_refused_in_a_sentence_that_can_be_read(name: str) -> None:
    addresses = [*(f"cgroup.{kind}:{name}" for kind in CGROUP_KINDS), f"systemd.AllowedCPUs:{'u' * 249}.service"]
    for address, value in [*((address, "") for address in addresses), ("task.cgroup:110:5110", name)]:
        with booted() as kernel, pytest.raises(IsolationError) as error:
            engine(kernel).restore_prior({address: value})
        assert kernel.log == [] and len(str(error.value)) < 800
    for one in (step("cpuset", path=name, cpus="2"), step("move_tasks", source="/system.slice", target=name)):
        with booted() as kernel, pytest.raises(IsolationError, match="is not the path of a cgroup") as error:
            engine(kernel).apply("x", [one])
        assert kernel.log == [] and len(str(error.value)) < 800


@pytest.mark.parametrize("name", JUST_SHORT_ENOUGH, ids=len)
def test_a_name_that_a_file_can_just_have_is_written_or_refused(name: str) -> None:
    """However deep it is: there may be two thousand cgroups above one."""
    values = {"cpus": "1", "mems": "", "exists": "present", "partition": "isolated", "controller": "enabled"}
    for kind, value in values.items():
        is_written_or_refused({f"cgroup.{kind}:{name}": value}, isolated=True)
    with booted(Baseline(systemd=False, delegated=True)) as kernel:
        assert "is gone" in str(engine(kernel).restore_prior({"task.cgroup:110:5110": name}).skipped)
        masked = step("cpuset", path=name, cpus="2", operation="mask")
        changes = {change.address: change.after for change in engine(kernel).apply("x", [masked], check=True).changes}
        assert changes[f"cgroup.cpus:{name}"] == "0-1,3-7"
        assert engine(kernel).resources.cgroups.effective_cpus(name) == frozenset(range(8))
