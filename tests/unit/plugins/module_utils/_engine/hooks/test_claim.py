# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a domain's pins and its configuration to the steps of its claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.arguments import validated
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.claim import (
    DOMAIN_VARIABLES,
    HostContext,
    decide,
    lasting_partition,
    relaxed,
    reserving,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.role_steps import VARIABLES
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.topology import CPU, SysfsTopology
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Claim, Step
from ansible_collections.vfio.isolation.plugins.module_utils._engine.strategy import choose
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import parse_list
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.domain import Domain
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.domain_xml import parse
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import step

ISOLATED, OLDER = "6.1.0", "5.10.0"
ALL = {**VARIABLES, **DOMAIN_VARIABLES}


def pinned(vcpus: str, emulator: str = "", cgroup: str = "/machine.slice") -> Domain:
    """A domain with these pins."""
    return Domain("win11", parse_list(vcpus), parse_list(emulator), cgroup)


def around(tmp_path: Path, version: int = 2, release: str = ISOLATED, **more: Any) -> HostContext:
    """A host with 8 CPUs."""
    return HostContext(SysfsTopology(FakeHost(str(tmp_path), {f"{CPU}/online": "0-7"})), version, release, **more)


def claim(
    tmp_path: Path,
    domain: Domain,
    others: Tuple[str, ...] = (),
    version: int = 2,
    release: str = ISOLATED,
    **variables: Any,
) -> Tuple[Dict[str, Any], List[str]]:
    """The arguments of its step reserve_cpus, and the notes."""
    complete = validated("test", ALL, {f"isolate_{name}": value for name, value in variables.items()})
    decision = decide(domain, complete, around(tmp_path, version, release, others=others), ("libvirt",))
    (reserve,) = (item["reserve_cpus"] for item in decision.items if "reserve_cpus" in item)
    return reserve, decision.notes


def reserved(reserve: Dict[str, Any]) -> Tuple[str, str, str, str]:
    """What of a step the domain decides."""
    return reserve["cpus"], reserve["emulator_cpus"], reserve["strategy"], reserve["cgroup"]


def test_the_cpus_are_those_of_the_xml(tmp_path: Path) -> None:
    assert reserved(claim(tmp_path, pinned("4-5", "3"))[0]) == ("4-5", "3", "auto", "/machine.slice")


def test_cpus_of_both_are_the_vcpus(tmp_path: Path) -> None:
    assert reserved(claim(tmp_path, pinned("4-7", "6-7"))[0])[:2] == ("4-7", "")


def offline(tmp_path: Path, domain: Domain) -> Tuple[Dict[str, Any], List[str]]:
    """The same on a host with 8 CPUs, of which 6-7 are offline."""
    host = FakeHost(str(tmp_path), {f"{CPU}/online": "0-5", f"{CPU}/possible": "0-7"})
    decision = decide(domain, validated("test", ALL, {}), HostContext(SysfsTopology(host), 2, ISOLATED), ())
    return decision.items[2]["reserve_cpus"], decision.notes


def test_of_cpus_that_are_offline_the_rest_counts_with_a_note(tmp_path: Path) -> None:
    reserve, notes = offline(tmp_path, pinned("4-7", "3,7"))
    assert reserved(reserve)[:2] == ("4-5", "3")
    assert notes == [
        "its vCPUs are pinned to CPUs 6-7, too, which are offline and not reserved",
        "its emulator and I/O threads are pinned to CPUs 7, too, which are offline and not reserved",
    ]
    assert offline(tmp_path / "all", pinned("4-5", "3"))[1] == []


@pytest.mark.parametrize(
    ("vcpus", "emulator", "words"),
    [
        (
            "6-7",
            "3",
            r"its vCPUs pinned to CPUs 6-7, and none .* online are 0-5\. Put one .*, or change <cputune><vcpupin",
        ),
        ("4", "7", r"its emulator and I/O threads pinned to CPUs 7, and none .* change <cputune><emulatorpin"),
    ],
)
def test_of_which_nothing_is_left_is_an_error_that_names_the_element(
    tmp_path: Path, vcpus: str, emulator: str, words: str
) -> None:
    with pytest.raises(IsolationError, match=words):
        offline(tmp_path, pinned(vcpus, emulator))


def test_a_cpu_that_no_host_has_is_an_error_as_before(tmp_path: Path) -> None:
    assert offline(tmp_path, pinned("4-5,9"))[0]["cpus"] == "4-5,9"


def test_what_is_configured_comes_first(tmp_path: Path) -> None:
    given = {"vm_cpus": "4-6", "emulator_cpus": "7", "cgroup": "vm.slice", "strategy": "slices"}
    assert reserved(claim(tmp_path, pinned("4-5", "7"), **given)[0]) == ("4-6", "7", "slices", "/vm.slice")


def test_every_step_has_the_vcpus(tmp_path: Path) -> None:
    steps = decide(pinned("4-5", "7"), validated("test", ALL, {}), around(tmp_path), ()).items
    assert [next(iter(item)) for item in steps] == [
        "drop_caches",
        "cpu_governor",
        "reserve_cpus",
        "compact_memory",
        "irq_affinity",
    ]
    assert steps[1]["cpu_governor"]["cpus"] == steps[4]["irq_affinity"]["cpus"] == "4-5"


def test_no_pins_are_an_error_that_shows_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(
        IsolationError, match=r"does not say where its vCPUs run; add <cputune><vcpupin .*virsh edit win11"
    ):
        claim(tmp_path, pinned(""))


OTHERS = ("/machine.slice/libpod-1.scope",)


def test_no_partition_around_others(tmp_path: Path) -> None:
    reserve, notes = claim(tmp_path, pinned("4-5", "3"), OTHERS)
    assert reserve["strategy"] == "slices"
    assert "no CPUs are reserved for what runs in /machine.slice/libpod-1.scope" in notes[0]


def test_a_partition_around_others_where_it_is_asked_for(tmp_path: Path) -> None:
    reserve, notes = claim(tmp_path, pinned("4-5", "3"), OTHERS, strategy="partition")
    assert reserve["strategy"] == "partition"
    assert "a partition, though no CPUs are reserved for what runs in /machine.slice/libpod-1.scope" in notes[0]


def test_others_matter_to_partitions_only(tmp_path: Path) -> None:
    assert claim(tmp_path, pinned("4-5", "3"), OTHERS, release=OLDER) == claim(
        tmp_path, pinned("4-5", "3"), release=OLDER
    )
    assert reserved(claim(tmp_path, pinned("4-5", "3"), OTHERS, version=1)[0])[2] == "auto"


def test_an_emulator_on_all_of_the_host_s_cpus_shares_them(tmp_path: Path) -> None:
    reserve, notes = claim(tmp_path, pinned("4-7", "0-3"))
    assert reserved(reserve)[:3] == ("4-7", "", "slices") and "pinned to the host's CPUs 0-3" in notes[0]
    assert reserved(claim(tmp_path, pinned("4-7", "0-3"), version=1)[0])[:3] == ("4-7", "", "auto")
    assert reserved(claim(tmp_path, pinned("4-7", "0-7"), strategy="slices")[0])[:3] == ("4-7", "", "slices")


WIDESPREAD = pinned("2-3,6-7", "0")  # the host keeps 0-1 and 4-5


def test_an_emulator_on_cpu_0_shares_it_unless_the_domain_says_otherwise(tmp_path: Path) -> None:
    reserve, notes = claim(tmp_path, WIDESPREAD)
    assert reserved(reserve)[:3] == ("2-3,6-7", "", "slices")
    assert notes == [
        "strategy slices, because its emulator is pinned to the host's CPUs 0",
        "its emulator shares CPUs 0 with the host",
    ]
    assert reserved(claim(tmp_path, WIDESPREAD, emulator="reserve")[0])[:3] == ("2-3,6-7", "0", "auto")
    assert reserved(claim(tmp_path, WIDESPREAD, version=1)[0])[:3] == ("2-3,6-7", "", "auto")
    assert claim(tmp_path, WIDESPREAD, version=1)[1] == ["its emulator shares CPUs 0 with the host"]
    assert reserved(claim(tmp_path, WIDESPREAD, strategy="partition")[0])[:3] == ("2-3,6-7", "0", "partition")


@pytest.mark.parametrize("given", [{"emulator": "share"}, {"emulator_cpus": ""}, {"emulator_cpus": []}])
def test_an_emulator_shares_its_cpus_if_the_domain_says_so(tmp_path: Path, given: Dict[str, Any]) -> None:
    reserve, notes = claim(tmp_path, pinned("4-5", "3"), **given)
    assert reserved(reserve)[:3] == ("4-5", "", "slices") and notes[-1] == "its emulator shares CPUs 3 with the host"
    with pytest.raises(
        IsolationError, match=r"its emulator on CPUs 3, which it is to share .* a partition shares no CPUs"
    ):
        claim(tmp_path, pinned("4-5", "3"), strategy="partition", **given)
    assert claim(tmp_path, pinned("4-5", "4"), **given)[1] == []  # there is nothing to share


def test_an_emulator_shares_nothing_in_a_partition_that_stays(tmp_path: Path) -> None:
    assert reserved(decided(tmp_path, pinned("6-7", "0"), ASKED))[:3] == ("6-7", "0", "auto")
    with pytest.raises(IsolationError, match="a partition shares no CPUs"):
        decided(tmp_path, pinned("6-7", "0"), ASKED, emulator="share")


def test_what_an_emulator_shares_is_no_longer_reserved_by_others_and_nothing_else(tmp_path: Path) -> None:
    both = step("reserve_cpus", cpus="4", emulator_cpus="0-1"), step("reserve_cpus", cpus="5", emulator_cpus="1")
    here = around(tmp_path, claims={"a": Claim(both[:1], (), "libvirt"), "b": Claim(both[1:], (), "libvirt")})
    decision = decide(pinned("6-7", "0"), validated("test", ALL, {}), here, ("libvirt",))
    assert decision.changed == {
        "a": [changed(both[0], emulator_cpus="", strategy="slices")],
        "b": [changed(both[1], strategy="slices")],
    }


def test_an_emulator_outside_of_the_claim_needs_another_strategy(tmp_path: Path) -> None:
    with pytest.raises(
        IsolationError, match=r"pinned to CPUs 2,4-5, but its claim has 3-5.* Add 2 to isolate_emulator_cpus"
    ):
        claim(tmp_path, pinned("4-5", "2"), emulator_cpus="3")
    assert reserved(claim(tmp_path, pinned("4-5", "2"), emulator_cpus="3", strategy="slices")[0])[1] == "3"
    assert reserved(claim(tmp_path, pinned("4-5", "2"), emulator_cpus="3", version=1)[0])[1] == "3"


PINS = "<vcpupin vcpu='0' cpuset='4'/><vcpupin vcpu='1' cpuset='5'/>"
REAL_TIME = "<vcpusched vcpus='0-1' scheduler='fifo' priority='1'/>"
EMULATOR = "<emulatorpin cpuset='3'/>"


def written(inside: str) -> Domain:
    """A domain as libvirt has it."""
    return parse(f"<domain><name>win11</name><vcpu>2</vcpu><cputune>{inside}</cputune></domain>".encode())


def test_a_partition_is_isolated_only_if_each_thread_has_a_cpu(tmp_path: Path) -> None:
    reserve, notes = claim(tmp_path, written(PINS + EMULATOR))
    assert reserve["partition_type"] == "auto" and notes == []
    reserve, notes = claim(tmp_path, written(PINS))
    assert reserve["partition_type"] == "root" and reserve["strategy"] == "auto"
    assert notes == [
        "partition type root, because its emulator is not pinned (add <emulatorpin cpuset='...'/>)",
    ]
    assert claim(tmp_path, written(PINS), strategy="slices")[1] == []
    assert claim(tmp_path, written(PINS), partition_type="root")[1] == []
    reserve, notes = claim(tmp_path, written(PINS), partition_type="isolated")
    assert reserve["partition_type"] == "isolated"
    assert notes[0].startswith("partition type isolated, though its emulator is not pinned")


@pytest.mark.parametrize(
    ("release", "at_boot", "strategy", "kind"),
    [
        ("6.18.1", "5", "slices", "auto"),
        ("6.6.1", "5", "slices", "auto"),
        ("6.12.1", "", "auto", "root"),
    ],
)
def test_threads_that_float_over_cpus_isolated_at_boot_have_no_partition(
    tmp_path: Path, release: str, at_boot: str, strategy: str, kind: str
) -> None:
    host = FakeHost(str(tmp_path), {f"{CPU}/online": "0-7", f"{CPU}/isolated": at_boot})
    context = HostContext(SysfsTopology(host), 2, release)
    decision = decide(written(PINS), validated("test", ALL, {}), context, ())
    reserve = decision.items[2]["reserve_cpus"]
    assert (reserve["strategy"], reserve["partition_type"]) == (strategy, kind)
    assert ("isolated at boot (isolcpus=)" in decision.notes[0]) == (strategy == "slices")
    assert decide(written(PINS + EMULATOR), validated("test", ALL, {}), context, ()).notes == []


def test_no_emulator_is_shut_in_with_real_time_vcpus(tmp_path: Path) -> None:
    reserve, notes = claim(tmp_path, written(PINS + REAL_TIME))
    assert reserve["strategy"] == "slices"
    assert notes == [
        "strategy slices, because its emulator shares CPUs with real-time vCPUs, which do not give them up; pin it to"
        " others with <emulatorpin cpuset='...'/>"
    ]
    with pytest.raises(
        IsolationError, match=r"would hang in a partition: its emulator shares .* <emulatorpin .* slices"
    ):
        claim(tmp_path, written(PINS + REAL_TIME), strategy="partition")
    reserve, notes = claim(tmp_path, written(PINS + REAL_TIME + EMULATOR))
    assert reserve["partition_type"] == reserve["strategy"] == "auto" and notes == []
    assert claim(tmp_path, written(PINS + REAL_TIME), emulator_cpus="3")[0]["strategy"] == "auto"


def test_a_domain_that_shuts_its_emulator_in_by_itself_is_worth_a_word(tmp_path: Path) -> None:
    inside = f"{PINS}{REAL_TIME}<emulatorpin cpuset='4'/>"
    reserve, notes = claim(tmp_path, written(inside))
    assert reserve["strategy"] == "auto"
    assert notes[0].startswith("the domain may hang: its emulator shares CPUs with real-time vCPUs")


def test_a_bad_expression_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(IsolationError, match="isolate_vm_cpus: term 1, '9': CPU 9 is not online"):
        claim(tmp_path, pinned("4-5"), vm_cpus="9")


AUTO = step("reserve_cpus", cpus="4", emulator_cpus="3", strategy="auto", cgroup="machine.slice")
CLAIMS = {
    "auto": Claim((step("drop_caches"), AUTO), ("x",), "libvirt"),
    "asked": Claim((step("reserve_cpus", cpus="5", emulator_cpus="2", strategy="partition"),), (), "libvirt"),
    "by hand": Claim((step("reserve_cpus", cpus="0"),), ()),
    "elsewhere": Claim((step("reserve_cpus", cpus="6", cgroup="/own.slice"),), (), "libvirt"),
    "other": Claim((step("drop_caches"),), (), "libvirt"),
}


def changed(one: Step, **arguments: Any) -> Step:
    """A step with other arguments."""
    return one._replace(arguments={**one.arguments, **arguments})


def test_claims_that_leave_the_choice_go_on_without_a_partition(tmp_path: Path) -> None:
    here = around(tmp_path, claims=CLAIMS)
    assert set(reserving(CLAIMS, "/machine.slice")) == {"auto", "asked", "by hand"}
    slices = changed(AUTO, strategy="slices")
    assert relaxed(here, "/machine.slice", ("libvirt",)) == {"auto": [step("drop_caches"), slices]}
    assert relaxed(here, "/none.slice", ("libvirt",)) == {}
    alone = changed(slices, emulator_cpus="")
    assert relaxed(here, "/machine.slice", ("libvirt",), parse_list("3")) == {"auto": [step("drop_caches"), alone]}
    here = around(tmp_path, version=1, claims=CLAIMS)
    assert relaxed(here, "/machine.slice", ("libvirt",)) == {}


@pytest.mark.parametrize(("version", "strategy"), [(2, "slices"), (1, "auto")])
def test_two_domains_whose_emulators_are_where_the_host_is_share_its_cpus(
    tmp_path: Path, version: int, strategy: str
) -> None:
    first = step("reserve_cpus", cpus="4-5", emulator_cpus="0-3")
    here = around(tmp_path, version, claims={"first": Claim((first,), (), "libvirt")})
    decision = decide(pinned("6-7", "0-3"), validated("test", ALL, {}), here, ("libvirt",))
    (reserve,) = (item["reserve_cpus"] for item in decision.items if "reserve_cpus" in item)
    assert reserved(reserve)[:3] == ("6-7", "", strategy)
    assert decision.changed == {"first": [changed(first, emulator_cpus="", strategy=strategy)]}


def test_an_emulator_that_is_configured_stays_reserved(tmp_path: Path) -> None:
    reserve, _notes = claim(tmp_path, pinned("4-7", "0-3"), emulator_cpus="0-3", strategy="slices")
    assert reserved(reserve)[:3] == ("4-7", "0-3", "slices")


def decided(tmp_path: Path, domain: Domain, claims: Dict[str, Claim], **variables: Any) -> Dict[str, Any]:
    """The arguments of the step reserve_cpus of a domain that starts beside claims."""
    complete = validated("test", ALL, {f"isolate_{name}": value for name, value in variables.items()})
    decision = decide(domain, complete, around(tmp_path, claims=claims, others=OTHERS), ("libvirt",))
    assert not decision.changed
    return next(item["reserve_cpus"] for item in decision.items if "reserve_cpus" in item)


ASKED = {"first": Claim((step("reserve_cpus", cpus="4-5", strategy="partition"),), (), "libvirt")}
BY_HAND = {"host": Claim((step("reserve_cpus", cpus="4-5"),), ())}


@pytest.mark.parametrize("claims", [ASKED, BY_HAND], ids=["asked for", "by hand"])
def test_beside_a_partition_that_stays_a_domain_joins_it(tmp_path: Path, claims: Dict[str, Claim]) -> None:
    assert lasting_partition(around(tmp_path, claims=claims), "/machine.slice", ("libvirt",)) == {4, 5}
    assert reserved(decided(tmp_path, pinned("6-7", "3"), claims))[:3] == ("6-7", "3", "auto")
    # Its emulator is where the host is, but cannot share: the step will say that no CPU is left.
    assert reserved(decided(tmp_path, pinned("6-7", "0-3"), claims))[:3] == ("6-7", "0-3", "auto")
    with pytest.raises(
        IsolationError, match=r"pinned to CPUs 3,6-7, but /machine.slice is in a partition that has 4-5"
    ):
        decided(tmp_path, pinned("6-7", "3"), claims, strategy="slices")
    assert reserved(decided(tmp_path, pinned("4", "5"), claims, strategy="slices"))[2] == "slices"


def test_a_cgroup_in_another_s_partition(tmp_path: Path) -> None:
    nested = "/machine.slice/machine-foo.slice"
    assert set(reserving(ASKED, nested)) == {"first"}
    with pytest.raises(IsolationError, match=r"machine-foo\.slice is in a partition that has 4-5"):
        decided(tmp_path, pinned("6-7", "3", nested), ASKED)
    assert reserving({"x": Claim((step("reserve_cpus", cpus="4", cgroup=nested),), ())}, "/machine.slice") == {}


def test_a_nested_cgroup_gets_no_partition(tmp_path: Path) -> None:
    nested = "/machine.slice/machine-foo.slice"
    assert choose("auto", 2, ISOLATED, nested)[0] == "slices"
    assert choose("partition", 2, ISOLATED, nested)[0] == "partition"  # as asked, and the kernel says what it is
    assert reserved(claim(tmp_path, pinned("6-7", "0-5", nested))[0]) == ("6-7", "", "auto", nested)


def test_an_emulator_that_libvirt_places_gets_no_partition(tmp_path: Path) -> None:
    placed = pinned("4-5")._replace(is_placed=True)
    reserve, notes = claim(tmp_path, placed)
    assert reserve["strategy"] == "slices" and "libvirt places its emulator itself" in notes[0]
    assert claim(tmp_path, placed._replace(emulator=frozenset({3})))[0]["strategy"] == "auto"
