# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which cgroup CPUs can be reserved for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import (
    CPU,
    POSSIBLE,
    Topology,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import CGROUP
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.host_v1 import V1
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.single_step import refused


def test_a_cgroup_among_services_is_refused() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        inside = step("reserve_cpus", cpus="4-5", cgroup="/system.slice/system-vm.slice")
        with pytest.raises(IsolationError, match=r"is below /system\.slice, where /system\.slice/a\.service also runs"):
            engine(kernel).apply("vm", [inside])
        assert kernel.snapshot() == before


@pytest.mark.parametrize("strategy", ["auto", "partition", "slices"])
def test_the_host_s_cpus_are_those_that_are_online(strategy: str) -> None:
    with booted() as kernel:
        kernel.files[f"{CPU}/present"] = "0-7"
        kernel.part(Topology).online = POSSIBLE - {2}
        reserve = step("reserve_cpus", cpus="4-5", strategy=strategy)
        for check in (True, False):
            notes = engine(kernel).apply("vm", [reserve], check).notes
            assert (notes["vm_cpus"], notes["host_cpus"]) == ("4-5", "0-1,3,6-7")
        notes = engine(kernel).apply("other", [step("reserve_cpus", cpus="6", strategy="slices")]).notes
        assert (notes["vm_cpus"], notes["host_cpus"]) == ("4-6", "0-1,3,7")


@pytest.mark.parametrize("strategy", ["auto", "tasks"])
def test_the_host_s_cpus_are_those_that_are_online_on_cgroup_v1(tmp_path: Path, strategy: str) -> None:
    host = FakeHost(str(tmp_path), {**V1, f"{CPU}/online": "0-1,3-7"})
    outcome = Engine(host).apply("vm", [step("reserve_cpus", cpus="4-5", strategy=strategy)], check=True)
    assert (outcome.notes["vm_cpus"], outcome.notes["host_cpus"]) == ("4-5", "0-1,3,6-7")


@pytest.mark.parametrize(("given", "nodes"), [("N1", "1"), ("N0-1", "0-1"), (["N0", 1], "0-1"), (1, "1")])
def test_the_host_s_memory_is_on_the_nodes_that_are_named(tmp_path: Path, given: Any, nodes: str) -> None:
    host = FakeHost(str(tmp_path), V1)
    outcome = Engine(host).apply("vm", [step("reserve_cpus", cpus="4-5", host_mems=given)], check=True)
    assert [change.after for change in outcome.changes if change.address == "cgroup.mems:/host.slice"] == [nodes]


def test_a_node_list_that_cannot_be_read_is_refused_and_not_guessed(tmp_path: Path) -> None:
    reserve = step("reserve_cpus", cpus="4-5", host_mems="N0N1")
    with pytest.raises(IsolationError, match="host_mems: 'N0N1': expected a number"):
        Engine(FakeHost(str(tmp_path), V1)).apply("vm", [reserve], check=True)
    assert "is for strategy tasks, on cgroup v1" in refused("reserve_cpus", cpus="4-5", host_mems="0")


@pytest.mark.parametrize("strategy", ["partition", "slices"])
def test_a_host_cgroup_that_is_no_path_is_refused_by_every_strategy(strategy: str) -> None:
    """A claim that has it could not be reverted."""
    for path in ("\ud800", "/../x", "a\0b"):
        said = refused("reserve_cpus", cpus="4-5", strategy=strategy, host_cgroup=path)
        assert said.startswith("host_cgroup: ") and "is not the path of a cgroup" in said


@pytest.mark.parametrize(
    ("cgroup", "place"),
    [("/a-b.slice", "/a.slice/a-b.slice"), ("/-a.slice", "nowhere"), ("/x.slice/y.slice", "/y.slice")],
)
def test_a_slice_that_systemd_would_make_elsewhere_is_refused(cgroup: str, place: str) -> None:
    said = refused("reserve_cpus", cpus="4-5", cgroup=cgroup, strategy="partition")
    assert f"{cgroup} cannot be made: systemd has " in said and f" at {place}; " in said


@pytest.mark.parametrize(
    ("release", "at_boot", "emulator", "kind"),
    [
        ("6.18.48", "4-7", "4-5", "isolated"),
        ("7.2.0-1", "6", "4-5", "isolated"),  # some are enough
        ("6.18.48", "4-7", "", "isolated"),
        ("6.18.48", "1-2", "4-5", "root"),
        ("6.6.9", "4-7", "4-5", "root"),
        ("6.12.48", "", "4-5", "root"),
    ],
)
def test_of_cpus_that_were_isolated_at_boot_newer_kernels_make_no_partition_of_type_root(
    release: str, at_boot: str, emulator: str, kind: str
) -> None:
    with booted() as kernel:
        kernel.files["/proc/sys/kernel/osrelease"] = release
        kernel.files[f"{CPU}/isolated"] = at_boot
        reserve = step("reserve_cpus", cpus="6-7", emulator_cpus=emulator)
        outcome = engine(kernel).apply("vm", [reserve, step("reserve_cpus", cpus="3", cgroup="/vms.slice")])
        assert kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus.partition") == kind
        named = [warning for warning in outcome.warnings if "isolated at boot (isolcpus=)" in warning]
        assert len(named) == bool(emulator and set(at_boot) & set("467")), outcome.warnings
        assert not engine(kernel).apply("vm", [reserve, step("reserve_cpus", cpus="3", cgroup="/vms.slice")]).changed


@pytest.mark.parametrize(
    ("release", "given", "said"),
    [
        (
            "6.18.48",
            {"partition_type": "root"},
            "partition_type: Linux 6.18.48 makes no partition of type root of CPUs 4, isolated at boot (isolcpus=);"
            " use auto",
        ),
        (
            "6.12.48",
            {"strategy": "partition"},
            "strategy: Linux 6.12.48 makes no partition of CPUs 4, isolated at boot (isolcpus=); use auto or slices",
        ),
    ],
)
def test_a_partition_that_the_kernel_would_refuse_is_refused_with_the_option_s_name(
    release: str, given: Dict[str, str], said: str
) -> None:
    with booted() as kernel:
        kernel.files["/proc/sys/kernel/osrelease"] = release
        kernel.files[f"{CPU}/isolated"] = "4-7"
        before = kernel.snapshot()
        with pytest.raises(IsolationError) as error:
            engine(kernel).apply("vm", [step("reserve_cpus", cpus="3-4", **given)])
        assert str(error.value) == said
        assert kernel.snapshot() == before


def test_of_cpus_that_were_isolated_at_boot_some_kernels_make_no_partition_at_all() -> None:
    with booted() as kernel:
        kernel.files["/proc/sys/kernel/osrelease"] = "6.17.9"
        kernel.files[f"{CPU}/isolated"] = "4-7"
        notes = engine(kernel).apply("vm", [step("reserve_cpus", cpus="3-4")]).notes
        assert notes["strategy"] == "slices" and "isolated at boot (isolcpus=)" in notes["strategy_reason"]
        beside = engine(kernel).apply("other", [step("reserve_cpus", cpus="2")])  # one strategy for all in a cgroup
        assert beside.notes["strategy"] == "slices"
