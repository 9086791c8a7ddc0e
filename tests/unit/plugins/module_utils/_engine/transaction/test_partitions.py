# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A partition is valid whenever a run reports success, whatever its neighbours list."""

from __future__ import annotations

import contextlib
import errno
from typing import Callable, List, Optional

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    baselines,
    engine,
    kill_at,
    some_cpus,
    step,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cpusets import Cpusets
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.files import Files
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.systemd import Systemd
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    Baseline,
    Given,
    Killed,
    Task,
    numbers,
    os_error,
    text_of,
)
from hypothesis import given
from hypothesis import strategies as st

CLAIMS = ("one", "two", "three")


def partition(kernel: FakeKernel, cgroup: str = "machine.slice") -> Optional[str]:
    """What the kernel says of a partition."""
    return kernel.read(f"{CGROUP}/{cgroup}/cpuset.cpus.partition")


def reserve(cpus: str, cgroup: str = "/machine.slice") -> List[Step]:
    """A VM's claim."""
    return [step("reserve_cpus", cpus=cpus, strategy="partition", cgroup=cgroup)]


@pytest.mark.parametrize("source", ["file", "override", "persistent", "runtime"])
def test_a_unit_lets_go_of_its_cpus_before_the_partition_beside_it_grows(source: str) -> None:
    with booted(Baseline(units=(("own.slice", Given(source, "6-7")),))) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("b", reserve("4"))
        engine(kernel).apply("a", reserve("5-7"))
        assert partition(kernel) == "isolated" and kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus") == "4-7"
        engine(kernel).revert(["a"])
        assert partition(kernel) == "isolated"
        engine(kernel).revert()
        assert kernel.snapshot() == before


@given(baselines(), st.data())
def test_whatever_the_units_list_disjoint_vms_have_a_valid_partition(baseline: Baseline, data: st.DataObject) -> None:
    baseline = baseline._replace(systemd=True)
    with booted(baseline) as kernel:
        before, left = kernel.snapshot(), frozenset(range(1, 8))
        for name in CLAIMS:
            cpus = numbers(data.draw(some_cpus(1))) & left
            if cpus:
                left -= cpus
                engine(kernel).apply(name, reserve(text_of(cpus)))
                assert partition(kernel) == "isolated"
                assert kernel.effective("/machine.slice") == frozenset(range(1, 8)) - left
                assert not engine(kernel).apply(name, reserve(text_of(cpus))).changed
        for name in data.draw(st.permutations(CLAIMS)):
            engine(kernel).revert([name])
            assert partition(kernel) in ("isolated", "member", None)
        assert kernel.snapshot() == before


@pytest.mark.parametrize("door", ["apply", "extend", "once", "check"])
def test_a_step_that_takes_cpus_out_of_another_claim_s_partition_is_refused_with_both_names(door: str) -> None:
    overlap = step("cpuset", path="/own.slice", cpus="3-4")
    with booted() as kernel:
        engine(kernel).apply("vm", reserve("4-5"))
        before, written = kernel.snapshot(), list(kernel.log)
        calls = {
            "apply": lambda: engine(kernel).apply("other", [overlap]),
            "extend": lambda: engine(kernel).extend("other", overlap),
            "once": lambda: engine(kernel).once(overlap),
            "check": lambda: engine(kernel).apply("other", [overlap], check=True),
        }
        with pytest.raises(IsolationError) as error:
            calls[door]()
        whose = "this step (cpuset)" if door == "once" else "the step cpuset of the claim 'other'"
        assert str(error.value) == (
            f"/own.slice cannot have CPU 4, which the partition /machine.slice has: {whose} wants the one, the step"
            " reserve_cpus of the claim 'vm' the other"
        )
        assert kernel.snapshot() == before and kernel.log == written
        engine(kernel).apply("more", [step("cpu_governor", cpus="0", governor="performance")])
        assert partition(kernel) == "isolated"


def test_steps_of_one_claim_that_take_cpus_out_of_its_own_partition_are_refused_before_anything_is_written() -> None:
    overlap = step("cpuset", path="/own.slice", cpus="3-4")
    with booted() as kernel:
        before = kernel.snapshot()
        with pytest.raises(IsolationError, match="cannot have CPU 4, which the partition /machine"):
            engine(kernel).apply("vm", [*reserve("4-5"), overlap])
        assert kernel.snapshot() == before and kernel.log == []
        engine(kernel).apply("vm", [overlap, *reserve("4-5")])  # a later step takes from an earlier one
        assert partition(kernel) == "isolated" and kernel.effective("/own.slice") == {3}


def test_check_mode_knows_that_an_invalid_partition_is_dissolved_before_lists_beside_it_are_emptied() -> None:
    with booted(Baseline(tasks=(Task("/init.scope", "0-7", 0), Task("/own.slice", "0-7", 0)))) as kernel:
        both = [*reserve("7"), step("reserve_cpus", cpus="4", strategy="slices")]
        engine(kernel).apply("vm", both)
        kernel.part(Systemd).change(["systemctl", "set-property", "--runtime", "user.slice", "AllowedCPUs=4-7"])
        assert "invalid" in (partition(kernel) or "")
        told = engine(kernel).apply("vm", reserve("2"), check=True)
        assert set(told.changes) == set(engine(kernel).apply("vm", reserve("2")).changes)
        assert partition(kernel) == "isolated"


@pytest.mark.parametrize("call", [lambda host, one: host.apply("other", [one]), lambda host, one: host.once(one)])
def test_a_partition_that_becomes_invalid_while_others_are_written_fails_the_run(call: Callable[..., object]) -> None:
    """It is not written itself: a list beside it is, here by somebody else."""
    with booted(Baseline(units=(("own.slice", Given("file", "0")),))) as kernel:
        engine(kernel).apply("vm", reserve("4-5"))

        def meddle(_what: str) -> None:
            kernel.watch = None
            kernel.part(Cpusets).set_cpus("/own.slice", numbers("4"))

        kernel.watch = meddle
        with pytest.raises(IsolationError, match="the kernel made the partition isolated invalid"):
            call(engine(kernel), step("cpuset", path="/other.slice", cpus="1"))
        assert set(engine(kernel).inspect()[0].claims) >= {"vm"}
        kernel.part(Cpusets).set_cpus("/own.slice", numbers("0"))
        engine(kernel).revert(["other"])
        engine(kernel).apply("vm", reserve("4-5"))
        assert partition(kernel) == "isolated"


def test_threads_are_bound_only_if_the_partitions_are_valid() -> None:
    """Else they would get CPUs by a partition that does not exist."""
    with booted(Baseline(units=(("own.slice", Given("file", "0")),))) as kernel:
        engine(kernel).apply("vm", reserve("4-5"))
        kernel.log.clear()

        def meddle(what: str) -> None:
            if "own.slice" not in what and "set-property" in what:
                kernel.part(Cpusets).set_cpus("/own.slice", numbers("4"))

        kernel.watch = meddle
        with pytest.raises(IsolationError, match="isolated invalid"):
            engine(kernel).apply("other", [step("cpuset", path="/system.slice", cpus="1-2")])
        bound = [what for what in kernel.log if what.startswith("affinity")]
        first = next(i for i, what in enumerate(kernel.log) if what.startswith("saved") and i)  # rolled back from there
        assert not [what for what in kernel.log[:first] if what in bound], kernel.log


def test_a_list_that_cannot_be_emptied_beside_a_partition_lets_go_when_that_one_grows() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", reserve("3-4"))
        engine(kernel).apply("unit", [step("cpuset", path="/user.slice", cpus="6", operation="mask")])
        engine(kernel).apply("unit", [step("cpu_governor", cpus="0", governor="powersave")])
        assert kernel.read(f"{CGROUP}/user.slice/cpuset.cpus") == "0-2,5-7"  # a name for all that it has
        engine(kernel).apply("vm", reserve("3,5-6"))
        assert partition(kernel) == "isolated"
        assert kernel.effective("/user.slice") == numbers("0-2,4,7")
        engine(kernel).revert()
        assert kernel.snapshot() == before


@pytest.mark.parametrize("count", range(1, 16))
def test_a_partition_that_moves_to_another_cgroup_and_is_refused_at_any_write_is_back(count: int) -> None:
    with booted(Baseline(tasks=())) as kernel:
        engine(kernel).apply("vm", reserve("1,5,7", "/vms.slice"))
        before, left = kernel.snapshot(), [count]

        def refuse(_what: str) -> Optional[OSError]:
            left[0] -= 1
            return os_error(errno.EBUSY) if left[0] == 0 else None

        kernel.refuse = refuse
        with contextlib.suppress(IsolationError):
            engine(kernel).apply("vm", reserve("3-4"))
        kernel.refuse = None
        if left[0] <= 0:
            assert partition(kernel, "vms.slice") in ("isolated", None)
            engine(kernel).apply("vm", reserve("1,5,7", "/vms.slice"))
            assert kernel.snapshot() == before


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("count", [0, *range(1, 12)])
def test_what_set_property_said_and_another_file_overruled_is_overruled_again_after_a_revert(
    count: int, resets: bool
) -> None:
    units = (("machine.slice", Given("runtime", "0-7")), ("own.slice", Given("type", "0,2-3,5,7")))
    with booted(Baseline(resets=resets, machine_slice=True, units=units, tasks=())) as kernel:
        before = kernel.snapshot()
        assert before["property machine.slice AllowedCPUs"] == "0,2-3,5,7"
        engine(kernel).apply("vm", reserve("4"))
        kernel.watch = kill_at(count) if count else None
        with contextlib.suppress(Killed):
            engine(kernel).revert()
        kernel.watch = None
        engine(kernel).revert()
        assert kernel.snapshot() == before


def _drop_ins(kernel: FakeKernel) -> List[str]:
    """What the drop-ins of ours for a partition type say, in the order in which systemd reads them."""
    return [text for path, text in sorted(kernel.snapshot().items()) if path.endswith("-CPUSetPartition.conf")]


@pytest.mark.parametrize("has_property", [False, True])
def test_a_partition_is_the_unit_s_property_if_systemd_has_one(has_property: bool) -> None:
    with booted(Baseline(partitions=has_property, remembers=True, tasks=())) as kernel:
        before = kernel.snapshot()
        assert engine(kernel).apply("vm", reserve("4-7"), check=True).changed
        assert kernel.snapshot() == before
        engine(kernel).apply("vm", reserve("4-7"))
        said = ["[Slice]\nCPUSetPartition=isolated"] if has_property else []
        assert partition(kernel) == "isolated" and _drop_ins(kernel) == said
        assert not engine(kernel).apply("vm", reserve("4-7")).changed and engine(kernel).inspect()[1].changes == []
        kernel.write(f"{CGROUP}/machine.slice/cpuset.cpus.partition", "member")
        kernel.part(Systemd).reload()
        assert partition(kernel) == ("isolated" if has_property else "member")
        engine(kernel).revert()
        assert partition(kernel) in (None, "member") and kernel.snapshot() == before


def test_a_partition_that_another_file_overrules_is_insisted_on_and_given_back() -> None:
    with booted(Baseline(partitions=True, remembers=True, machine_slice=True, tasks=())) as kernel:
        theirs = "/etc/systemd/system/machine.slice.d/60-theirs.conf"
        kernel.part(Files).put(theirs, "[Slice]\nCPUSetPartition=member")
        kernel.part(Systemd).reload()
        before = kernel.snapshot()
        engine(kernel).apply("vm", reserve("4-7"))
        kernel.part(Systemd).reload()
        assert partition(kernel) == "isolated"
        assert not engine(kernel).apply("vm", reserve("4-7")).changed
        engine(kernel).revert()
        kernel.part(Systemd).reload()
        assert kernel.snapshot() == before


def test_what_a_file_says_of_a_partition_that_is_none_is_named() -> None:
    with booted(Baseline(partitions=True, remembers=True, machine_slice=True, tasks=())) as kernel:
        path = "/run/systemd/system.control/machine.slice.d/50-CPUSetPartition.conf"
        kernel.part(Files).put(path, "[Slice]\nCPUSetPartition=both")
        before = kernel.snapshot()
        with pytest.raises(IsolationError, match=f"{path}: CPUSetPartition='both' is not a type of partition. Correct"):
            engine(kernel).apply("vm", reserve("4-7"))
        assert kernel.snapshot() == before
