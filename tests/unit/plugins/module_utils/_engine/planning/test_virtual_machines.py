# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual machines and the cgroup of a claim: who is warned of, and what the cgroup `auto` comes to."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Step
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import JOURNAL
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    STRATEGIES,
    engine,
    step,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    numbers,
)

Place = Tuple[str, str]  # the cgroup of a virtual machine, or the name of its thread, and the CPUs that it asks for

BOTH = pytest.mark.parametrize("strategy", STRATEGIES)
INSIDE, PROXMOX = "/machine.slice/x.scope", "/qemu.slice/100.scope"
GOVERNOR = [step("cpu_governor", cpus="0", governor="performance")]


def reserved(strategy: str, cgroup: str = "/machine.slice", cpus: str = "4-5") -> List[Step]:
    """A claim for what is in a cgroup."""
    return [step("reserve_cpus", cpus=cpus, strategy=strategy, cgroup=cgroup)]


@contextlib.contextmanager
def running(*places: Place) -> Iterator[FakeKernel]:
    """A host where virtual machines run, vm0 as process 500 and so on."""
    with booted() as kernel:
        for index, (cgroup, affinity) in enumerate(places):
            kernel.add_qemu(500 + index, cgroup, affinity, f"vm{index}")
        yield kernel


def add_threads(kernel: FakeKernel, process: int, *threads: Place) -> None:
    """Threads of a virtual machine besides its first, by their names, and the CPUs that they ask for."""
    kernel.files[f"/proc/{process}/task/{process}/comm"] = "qemu-system-x86"
    for number, (name, affinity) in enumerate(threads, 600):
        kernel.add_thread(number, kernel.threads[process].cgroup, affinity)
        kernel.files[f"/proc/{process}/task/{number}/comm"] = name


def warnings(kernel: FakeKernel, job: List[Step]) -> List[List[str]]:
    """What check mode, the run, a second run and an audit warn of; the revert has nothing to warn of."""
    before = kernel.snapshot()
    outcomes = [engine(kernel).apply("vm", job, check=True)]
    assert kernel.snapshot() == before
    outcomes += [engine(kernel).apply("vm", job), engine(kernel).apply("vm", job), engine(kernel).inspect()[1]]
    assert [outcome.changed for outcome in outcomes] == [True, True, False, False]
    assert engine(kernel).revert(["vm"]).warnings == [] and kernel.snapshot() == before
    return [outcome.warnings for outcome in outcomes]


@BOTH
def test_a_virtual_machine_on_reserved_cpus_outside_of_the_cgroup_is_warned_of_in_every_run(strategy: str) -> None:
    with running((PROXMOX, "4-5")) as kernel:
        sentence = (
            "QEMU process 500 (vm0) may run on CPUs 4-5, but CPUs 4-5 are reserved for /machine.slice, and it is in"
            " /qemu.slice/100.scope, so it is kept off them; name /qemu.slice with the option cgroup"
            " (isolate_cgroup of the role)"
        )
        assert warnings(kernel, reserved(strategy)) == [[sentence]] * 4


@BOTH
@pytest.mark.parametrize(
    ("places", "first", "then"),
    [
        ([(INSIDE, "4-5")], [], []),
        ([(INSIDE, "0-1")], [], []),
        ([("/machine.slice", "4-5")], [], []),
        ([(INSIDE, "4-5"), (PROXMOX, "4-5")], [501], [501]),
        ([(INSIDE, "4-5"), (PROXMOX, "0-7")], [501], []),  # it is pinned to nothing, so it asked for nothing
        ([(INSIDE, "4-5"), (PROXMOX, "0-1")], [], []),
        ([(PROXMOX, "0-1")], [500], [500]),  # whom is the claim for?
        ([(PROXMOX, "0-7")], [500], [500]),
        ([(PROXMOX, "0-1"), ("/vm.slice/y.scope", "5-6")], [500, 501], [500, 501]),
        ([(INSIDE, "4-5"), ("/machine.slice2/x.scope", "4-5")], [501], [501]),
        ([], [], []),
    ],
)
def test_those_on_other_cpus_are_only_warned_of_if_none_is_in_the_cgroup(
    strategy: str, places: Sequence[Place], first: List[int], then: List[int]
) -> None:
    with running(*places) as kernel:
        found = [[int(sentence.split()[2]) for sentence in said] for said in warnings(kernel, reserved(strategy))]
        assert found == [first, first, then, then]


@pytest.mark.parametrize(
    ("affinity", "said"), [("3-4", "may run on CPUs 4, but"), ("0-7", "may run on CPUs 4-5, but"), ("0-1", "runs, but")]
)
def test_the_warning_names_the_cpus_that_it_loses(affinity: str, said: str) -> None:
    with running((PROXMOX, affinity)) as kernel:
        assert f"QEMU process 500 (vm0) {said} CPUs 4-5 are reserved" in warnings(kernel, reserved("auto"))[0][0]


@BOTH
def test_of_a_virtual_machine_all_threads_count(strategy: str) -> None:
    with running((PROXMOX, "0-1"), (INSIDE, "4-5")) as kernel:
        add_threads(kernel, 500, ("worker", "5"), ("CPU 0/KVM", "2"))
        for said in warnings(kernel, reserved(strategy)):
            assert len(said) == 1 and said[0].startswith("QEMU process 500 (vm0) may run on CPUs 5, but CPUs 4-5")


@BOTH
@pytest.mark.parametrize(
    ("cgroup", "advice"),
    [
        ("/qemu.slice/100.scope", "name /qemu.slice with the option cgroup"),
        ("/a.slice/a-b.slice/a-b-c.slice", "name /a.slice with"),
        ("/machine/qemu-1-win11.libvirt-qemu", "name /machine with"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice", "start it in a slice of its own"),
        ("/system.slice/vm.service", "start it in a slice of its own"),
        ("/init.scope", "start it in a slice of its own"),
        ("/", "start it in a slice of its own"),
    ],
)
def test_the_advice_is_a_cgroup_that_can_be_named_or_to_start_it_in_one(
    strategy: str, cgroup: str, advice: str
) -> None:
    with running((cgroup, "4-5")) as kernel:
        for said in warnings(kernel, reserved(strategy)):
            assert len(said) == 1 and f"and it is in {cgroup}, so it is kept off them; {advice}" in said[0]
            assert ("with systemd-run --slice=vfio.slice, and name that with" in said[0]) == advice.startswith("start")


@pytest.mark.parametrize(
    ("places", "warned"),
    [
        ([("/machine.slice/machine-b.slice/x.scope", "4-5")], False),
        ([("/machine.slice", "4-5")], False),
        ([("/machine.slice2/x.scope", "4-5")], True),
        ([("/", "4-5")], True),
    ],
)
def test_below_a_cgroup_that_keeps_the_cpus_for_another_nobody_is_kept_off(places: List[Place], warned: bool) -> None:
    with running(*places) as kernel:
        job = reserved("slices", "/machine.slice/machine-a.slice")
        assert [bool(said) for said in warnings(kernel, job)] == [warned] * 4
        engine(kernel).apply("vm", job)
        assert (kernel.threads[500].cpus == numbers("4-5")) is not warned


@BOTH
def test_each_claim_may_be_for_a_cgroup_of_its_own(strategy: str) -> None:
    with running((PROXMOX, "6"), (INSIDE, "4-5"), ("/vm.slice/x.scope", "5-6")) as kernel:
        (first,) = engine(kernel).apply("one", reserved(strategy, "/qemu.slice", "6")).warnings
        assert "QEMU process 502 (vm2) may run on CPUs 6, but CPUs 6 are reserved for /qemu.slice, and" in first
        (second,) = engine(kernel).apply("two", reserved(strategy)).warnings
        assert "QEMU process 502 (vm2) may run on CPUs 5-6, but CPUs 4-6 are" in second
        assert "reserved for /machine.slice and /qemu.slice, and" in second
        assert engine(kernel).inspect()[1].warnings == [second]


@BOTH
@pytest.mark.parametrize(("affinity", "warned"), [("0-1", False), ("0-3,6-7", False), ("5", True)])
def test_a_hook_makes_its_claim_before_its_virtual_machine_runs(strategy: str, affinity: str, warned: bool) -> None:
    """So that another one runs elsewhere says nothing of the claim."""
    with running((PROXMOX, affinity)) as kernel:
        outcome = engine(kernel).apply("win11", reserved(strategy), created_by="libvirt")
        assert [sentence.split(",")[0] for sentence in outcome.warnings] == (
            ["QEMU process 500 (vm0) may run on CPUs 5"] if warned else []
        )
        engine(kernel).revert()
        assert [" runs, " in sentence for sentence in engine(kernel).apply("win11", reserved(strategy)).warnings] == [
            not warned
        ]


@pytest.mark.parametrize(
    ("options", "threads", "warned"),
    [
        ({}, [("CPU 0/KVM", "4"), ("CPU 1/KVM", "5")], False),
        ({}, [("CPU 0/KVM", "4"), ("CPU 1/KVM", "4-5")], True),
        ({}, [("CPU 0/KVM", "0-7")], True),
        ({}, [("CPU 0/KVM", "3-4")], False),
        ({"cpus": "4"}, [("CPU 0/KVM", "0-7")], False),
        ({}, [("CPU 0/KVM", "4"), ("IO iothread1", "0-7"), ("SPICE Worker", "4-5")], False),
        ({"partition_type": "root"}, [("CPU 0/KVM", "0-7")], False),
        ({"emulator_cpus": "6-7"}, [("CPU 0/KVM", "0-7")], False),
        ({"partition_type": "isolated", "emulator_cpus": "6-7"}, [("CPU 0/KVM", "4"), ("CPU 1/KVM", "6-7")], True),
        ({"strategy": "slices"}, [("CPU 0/KVM", "0-7")], False),
    ],
)
def test_vcpus_that_float_in_an_isolated_partition_are_warned_of(
    options: Dict[str, str], threads: Sequence[Place], warned: bool
) -> None:
    with running((INSIDE, "4-5")) as kernel:
        add_threads(kernel, 500, *threads)
        sentence = (
            "QEMU process 500 (vm0) has vCPUs that are not pinned to one CPU each, and the kernel spreads no threads in"
            " the isolated partition /machine.slice; pin them, or use partition_type: root (isolate_partition_type of"
            " the role)"
        )
        job = [step("reserve_cpus", **{"cpus": "4-5", **options})]
        assert warnings(kernel, job) == [[sentence] * warned] * 4


def test_what_floats_outside_of_a_partition_is_no_matter_of_the_partition_s() -> None:
    with running((INSIDE, "4-5"), ("/machine.slice2/x.scope", "0-1")) as kernel:
        add_threads(kernel, 501, ("CPU 0/KVM", "0-7"))
        (sentence,) = engine(kernel).apply("vm", reserved("partition")).warnings
        assert sentence.startswith("QEMU process 501 (vm1) may run on CPUs 4-5, but ")


def test_without_a_reservation_nobody_is_warned_of() -> None:
    with running((PROXMOX, "4-5"), ("/user.slice/x.scope", "4-5")) as kernel:
        assert warnings(kernel, GOVERNOR) == [[]] * 4


# The cgroup auto


def granted(kernel: FakeKernel, claim: str = "vm") -> Dict[str, str]:
    """What was granted to the first step of a claim, as a new process reads it."""
    return dict(engine(kernel).inspect()[0].claims[claim].granted[0])


def cpusets(kernel: FakeKernel) -> Dict[str, Any]:
    """All settings of cgroups."""
    return {line: value for line, value in kernel.snapshot().items() if line.startswith(CGROUP)}


@BOTH
@pytest.mark.parametrize(
    ("places", "cgroup"),
    [
        ([], "/machine.slice"),
        ([INSIDE], "/machine.slice"),
        ([PROXMOX], "/qemu.slice"),
        ([PROXMOX, "/qemu.slice/101.scope"], "/qemu.slice"),
        (["/machine.slice/machine-a.slice/x.scope", INSIDE], "/machine.slice"),
        (["/vm/deep/down"], "/vm"),
        (["/systems.slice/x.scope"], "/systems.slice"),
    ],
)
def test_auto_is_the_cgroup_below_the_root_that_holds_all_virtual_machines(
    strategy: str, places: Sequence[str], cgroup: str
) -> None:
    with running(*((place, "4-5") for place in places)) as kernel:
        before = kernel.snapshot()
        outcome = engine(kernel).apply("vm", reserved(strategy, "auto"))
        assert outcome.warnings == [] and granted(kernel) == {"cpus": "4-5", "cgroup": cgroup}
        isolated = kernel.snapshot()
        engine(kernel).revert()
        assert kernel.snapshot() == before != isolated
        engine(kernel).apply("vm", reserved(strategy, cgroup))
        assert kernel.snapshot() == isolated


@BOTH
@pytest.mark.parametrize(
    ("places", "words"),
    [
        (
            [PROXMOX, INSIDE],
            "cgroup: auto finds QEMU process 500 (vm0) in /qemu.slice/100.scope and QEMU process 501 (vm1) in"
            " /machine.slice/x.scope, and a claim is for one cgroup; name it",
        ),
        (
            [PROXMOX, "/qemu.slice/101.scope", "/vm/x"],
            "(vm0) in /qemu.slice/100.scope and QEMU process 502 (vm2) in /vm/x",
        ),
        (
            ["/user.slice/user-1000.slice/x.scope"],
            "(vm0) in /user.slice/user-1000.slice/x.scope, where it cannot be told",
        ),
        (["/system.slice/x.scope"], "(vm0) in /system.slice/x.scope, where it cannot be told from the host's own"),
        (["/init.scope"], "(vm0) in /init.scope, where it cannot be told"),
        (["/"], "(vm0) in /, where it cannot be told"),
        ([PROXMOX, "/user.slice/x.scope"], "(vm1) in /user.slice/x.scope, where it cannot be told"),
    ],
)
def test_auto_is_refused_where_no_cgroup_holds_them_all_or_it_is_the_host_s(
    strategy: str, places: Sequence[str], words: str
) -> None:
    with running(*((place, "4-5") for place in places)) as kernel:
        before = kernel.snapshot()
        for check in (True, False):
            with pytest.raises(IsolationError) as error:
                engine(kernel).apply("vm", reserved(strategy, "auto"), check)
            assert words in str(error.value) and str(error.value).startswith("cgroup: auto finds ")
            assert ("systemd-run --slice=vfio.slice" in str(error.value)) == ("cannot be told" in words)
        assert kernel.snapshot() == before and kernel.log == [] and not os.path.exists(kernel.root + JOURNAL)


def test_a_cgroup_that_is_named_auto_is_written_with_a_slash() -> None:
    with running((PROXMOX, "4-5")) as kernel:
        engine(kernel).apply("vm", reserved("slices", "/auto"))
        assert granted(kernel) == {"cpus": "4-5"}
        assert not kernel.effective("/qemu.slice") & numbers("4-5")


@BOTH
def test_auto_stays_what_it_was_when_the_virtual_machine_has_ended(strategy: str) -> None:
    with running((PROXMOX, "4-5")) as kernel:
        kernel.end_qemu(500)
        before, job = kernel.snapshot(), reserved(strategy, "auto")
        kernel.add_qemu(500, PROXMOX, "4-5", "vm0")
        engine(kernel).apply("vm", job)
        isolated = kernel.snapshot()
        kernel.end_qemu(500)
        log = list(kernel.log)
        for check in (True, False):
            assert not engine(kernel).apply("vm", job, check).changed
        assert engine(kernel).inspect()[1].changes == [] and kernel.log == log
        assert granted(kernel)["cgroup"] == "/qemu.slice"
        kernel.add_qemu(500, PROXMOX, "4-5", "vm0")
        assert kernel.snapshot() == isolated
        kernel.end_qemu(500)
        engine(kernel).revert()
        assert kernel.snapshot() == before


@BOTH
@pytest.mark.parametrize("elsewhere", ["/vm.slice/x.scope", "/user.slice/x.scope"])
def test_auto_stays_what_it_was_when_another_claim_comes(strategy: str, elsewhere: str) -> None:
    with running((PROXMOX, "4-5"), (elsewhere, "0-1")) as kernel:
        kernel.end_qemu(501)
        engine(kernel).apply("vm", reserved(strategy, "auto"))
        isolated = cpusets(kernel)
        for claim, happens in (
            ("two", lambda: kernel.add_qemu(501, elsewhere, "0-1", "vm1")),
            ("three", lambda: kernel.end_qemu(500)),
        ):
            happens()
            engine(kernel).apply(claim, GOVERNOR)
            assert cpusets(kernel) == isolated and granted(kernel)["cgroup"] == "/qemu.slice"
            assert engine(kernel).inspect()[1].changes == []
        engine(kernel).revert(["two"])
        assert cpusets(kernel) == isolated


@BOTH
def test_auto_follows_the_virtual_machines_when_its_claim_is_applied_again(strategy: str) -> None:
    with running((PROXMOX, "4-5"), ("/vm.slice/x.scope", "4-5")) as kernel:
        kernel.end_qemu(500)
        before, job = kernel.snapshot(), reserved(strategy, "auto")
        kernel.end_qemu(501)
        kernel.add_qemu(500, PROXMOX, "4-5", "vm0")
        engine(kernel).apply("vm", job)
        kernel.end_qemu(500)
        kernel.add_qemu(501, "/vm.slice/x.scope", "4-5", "vm1")
        assert kernel.threads[501].cpus == numbers("0-3,6-7")
        assert engine(kernel).apply("vm", job, check=True).changed and granted(kernel)["cgroup"] == "/qemu.slice"
        assert engine(kernel).apply("vm", job).changed and granted(kernel)["cgroup"] == "/vm.slice"
        assert numbers("4-5") <= kernel.effective("/vm.slice") and not kernel.effective("/qemu.slice") & numbers("4-5")
        assert not engine(kernel).apply("vm", job).changed
        engine(kernel).revert()
        kernel.end_qemu(501)
        kernel.add_qemu(501, "/vm.slice/x.scope", "4-5", "vm1")
        assert kernel.snapshot() == before


@BOTH
@pytest.mark.parametrize(
    ("elsewhere", "why"),
    [("/vm.slice/x.scope", "a claim is for one cgroup"), ("/user.slice/x.scope", "cannot be told from the host's own")],
)
def test_auto_stays_what_it_was_where_it_cannot_be_told_now(strategy: str, elsewhere: str, why: str) -> None:
    with running((PROXMOX, "4-5"), (elsewhere, "0-1")) as kernel:
        kernel.end_qemu(501)
        job = reserved(strategy, "auto")
        engine(kernel).apply("vm", job)
        kernel.add_qemu(501, elsewhere, "0-1", "vm1")
        outcome = engine(kernel).apply("vm", job)
        assert not outcome.changed and granted(kernel)["cgroup"] == "/qemu.slice"
        (sentence,) = outcome.warnings
        assert sentence.startswith("claim vm, step 1 (reserve_cpus) keeps cgroup /qemu.slice") and why in sentence


def test_a_step_alone_has_auto_as_well() -> None:
    with running((PROXMOX, "4-5")) as kernel:
        before = kernel.snapshot()
        outcome = engine(kernel).once(reserved("partition", "auto")[0])
        assert kernel.read(f"{CGROUP}/qemu.slice/cpuset.cpus.partition") == "isolated"
        engine(kernel).restore_prior(outcome.prior)
        assert kernel.snapshot() == before


@pytest.mark.parametrize("spoilt", ["x\ny", "/x\ny", "/x\n", "qemu.slice", "", 7, None, ["/qemu.slice"]])
def test_a_journal_with_a_cgroup_that_none_can_have_been_granted_is_refused(spoilt: Any) -> None:
    with running((PROXMOX, "4-5")) as kernel:
        job = reserved("partition", "auto")
        engine(kernel).apply("vm", job)
        before, log = kernel.snapshot(), list(kernel.log)
        with open(kernel.root + JOURNAL, encoding="utf-8") as stream:
            content = json.load(stream)
        assert content["claims"]["vm"]["steps"][0]["granted"]["cgroup"] == "/qemu.slice"
        content["claims"]["vm"]["steps"][0]["granted"]["cgroup"] = spoilt
        with open(kernel.root + JOURNAL, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        calls = (engine(kernel).revert, lambda: engine(kernel).apply("vm", job), engine(kernel).inspect)
        for call in calls:
            with pytest.raises(IsolationError, match=f"^{JOURNAL} cannot be trusted: .*granted.*Nothing was changed"):
                call()
        assert kernel.snapshot() == before and kernel.log == log
