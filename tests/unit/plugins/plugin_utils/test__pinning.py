# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pinning out of topology."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.vfio.isolation.plugins.filter import cpu_list, cpu_mask, cpu_set
from ansible_collections.vfio.isolation.plugins.filter.cputune import cputune
from hypothesis import given
from hypothesis import strategies as st

# An AMD 5950X, as its facts are.
RYZEN = {
    "possible": "0-31",
    "online": "0-31",
    "isolated_at_boot": "",
    "nodes": {"0": "0-31"},
    "node_memory": {"0": 64 << 30},
    "node_distances": {"0": {"0": 10}},
    "packages": {"0": "0-31"},
    "dies": {"0": "0-31"},
    "cores": sorted(f"{core},{core + 16}" for core in range(16)),
    "l3": [{"cpus": "0-7,16-23", "bytes": 32 << 20}, {"cpus": "8-15,24-31", "bytes": 32 << 20}],
    "types": {},
}
TWO_NODES = {
    **RYZEN,
    "possible": "0-7",
    "online": "0-7",
    "nodes": {"0": "0-3", "1": "4-7"},
    "node_memory": {"0": 16 << 30, "1": 16 << 30},
    "node_distances": {"0": {"0": 10, "1": 21}, "1": {"0": 21, "1": 10}},
    "packages": {"0": "0-3", "1": "4-7"},
    "cores": ["0-1", "2-3", "4-5", "6-7"],
    "l3": [{"cpus": "0-3", "bytes": 16 << 20}, {"cpus": "4-7", "bytes": 96 << 20}],
}


def made(topology: Any, /, vcpus: int, **options: Any) -> ET.Element:
    """The elements, below one root."""
    return ET.fromstring(f"<domain>{cputune(topology, vcpus, **options)}</domain>")


def pins(domain: ET.Element) -> dict[int, str]:
    """vCPU -> host CPU."""
    return {int(pin.attrib["vcpu"]): pin.attrib["cpuset"] for pin in domain.iterfind("cputune/vcpupin")}


def test_the_listing_for_the_5950x_in_the_readme_of_vfio_isolate() -> None:
    domain = made(
        RYZEN,
        vcpus=16,
        cpus="l3:8",
        emulator_cpus="core:7",
        iothreads=1,
        vcpu_scheduler={"scheduler": "rr", "priority": 1},
        iothread_scheduler={"scheduler": "fifo", "priority": 98},
    )
    assert domain.findtext("vcpu") == "16" and domain.findtext("iothreads") == "1"
    assert pins(domain) == {2 * n + half: str(8 + n + 16 * half) for n in range(8) for half in (0, 1)}
    assert [(e.tag, e.attrib) for e in domain.findall("cputune/*")][16:] == [
        ("emulatorpin", {"cpuset": "7,23"}),
        ("iothreadpin", {"iothread": "1", "cpuset": "7,23"}),
        ("vcpusched", {"vcpus": "0-15", "scheduler": "rr", "priority": "1"}),
        ("iothreadsched", {"iothreads": "1", "scheduler": "fifo", "priority": "98"}),
    ]
    assert domain.find("cpu/topology").attrib == {"sockets": "1", "cores": "8", "threads": "2"}
    assert domain.find("numatune") is None


def test_memory_is_on_the_nodes_of_the_vcpus() -> None:
    domain = made(TWO_NODES, vcpus=4, cpus="node:1")
    assert list(pins(domain).values()) == ["4", "5", "6", "7"]
    assert domain.find("numatune/memory").attrib == {"mode": "strict", "nodeset": "1"}
    assert made(TWO_NODES, vcpus=6).find("numatune/memory").attrib["nodeset"] == "0-1"


def test_instead_of_a_node_without_memory_the_nearest_that_has_some_is_named() -> None:
    without = {**TWO_NODES, "node_memory": {"0": 16 << 30, "1": 0}}
    domain = made(without, vcpus=4, cpus="node:1")
    assert domain.find("numatune/memory").attrib == {"mode": "preferred", "nodeset": "0"}
    assert made(without, vcpus=4, cpus="node:0").find("numatune/memory").attrib["mode"] == "strict"
    three = {
        **TWO_NODES,
        "nodes": {"0": "0-1", "1": "2-3", "2": "4-7"},
        "node_memory": {"0": 1 << 30, "1": 0, "2": 1 << 30},
        "node_distances": {"0": {"0": 10}, "1": {"0": 30, "1": 10, "2": 20}, "2": {"2": 10}},
    }
    assert made(three, vcpus=2, cpus="node:1").find("numatune/memory").attrib["nodeset"] == "2"
    assert made(three, vcpus=4, cpus="0-3").find("numatune/memory").attrib == {"mode": "strict", "nodeset": "0,2"}
    nowhere = {**TWO_NODES, "node_memory": {"0": 0, "1": 0}}
    assert made(nowhere, vcpus=2).find("numatune") is None


def test_the_cpus_of_one_type_of_a_hybrid_processor() -> None:
    hybrid = {**TWO_NODES, "types": {"performance": "0-3", "efficiency": "4-7"}}
    assert list(pins(made(hybrid, vcpus=4, cpus="type:efficiency")).values()) == ["4", "5", "6", "7"]


def test_dies_whose_numbers_repeat_are_known_by_their_package() -> None:
    dies = {"0.0": "0-1", "0.1": "2-3", "1.0": "4-5", "1.1": "6-7"}
    assert list(pins(made({**TWO_NODES, "dies": dies}, vcpus=2, cpus="die:1.0")).values()) == ["4", "5"]
    for name in ("die:3", "die:1.3"):
        assert list(pins(made({**TWO_NODES, "dies": {"3": "6-7"}}, vcpus=2, cpus=name)).values()) == ["6", "7"]
    with pytest.raises(AnsibleFilterError, match=r"several packages have a die 1; write one of die:0\.1, die:1\.1"):
        made({**TWO_NODES, "dies": dies}, vcpus=2, cpus="die:1")


def test_without_siblings_each_vcpu_has_a_core_of_its_own() -> None:
    domain = made(TWO_NODES, vcpus=2, cpus="l3:largest", siblings=False)
    assert list(pins(domain).values()) == ["4", "6"]
    assert domain.find("cpu/topology").attrib == {"sockets": "1", "cores": "2", "threads": "1"}


def test_what_a_template_gives_as_text_is_taken() -> None:
    given = {"cpus": "l3:largest", "emulator_cpus": "0"}
    typed = cputune(TWO_NODES, 2, siblings=False, iothreads=1, **given)
    assert cputune(TWO_NODES, "2", siblings="false", iothreads="1", **given) == typed


def test_half_a_core_makes_no_siblings() -> None:
    domain = made(TWO_NODES, vcpus=3, cpus="4-7", emulator_cpus="7")
    assert list(pins(domain).values()) == ["4", "5", "6"]
    assert domain.find("cpu/topology").attrib["threads"] == "1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vcpus": 5, "cpus": "node:1"}, "5 vCPUs need as many CPUs, but 4-7 has 4"),
        ({"vcpus": 4, "cpus": "node:1", "emulator_cpus": "7"}, "has 3, 7 of them for emulator and I/O threads"),
        ({"vcpus": 3, "cpus": "node:1", "siblings": False}, "3 vCPUs need as many cores, but 4-7 has 2"),
        ({"vcpus": 0}, "0 vCPUs"),
        ({"vcpus": 1, "cpus": "node:7"}, "there is no NUMA node 7; there are 0-1"),
        ({"vcpus": 1, "cpus": "type:performance"}, "this host's CPUs are all of one type"),
        ({"vcpus": 1, "iothread_cpus": "0"}, "there are no I/O threads"),
        ({"vcpus": 1, "iothread_scheduler": {"scheduler": "rr", "priority": 1}}, "there are no I/O threads"),
        ({"vcpus": 1, "vcpu_scheduler": {"scheduler": "rr"}}, "rr needs a priority of 1 to 99"),
        ({"vcpus": 1, "vcpu_scheduler": {"scheduler": "quick"}}, "expected scheduler (batch, idle, fifo, rr)"),
        ({"vcpus": 1, "vcpu_scheduler": {"scheduler": "rr", "priority": True}}, "rr needs a priority of 1 to 99"),
        ({"vcpus": 1, "colour": "red"}, "colour"),
        ({"vcpus": "many"}, "many"),
        ({"vcpus": 1, "siblings": "perhaps"}, "perhaps"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        made(TWO_NODES, **options)
    assert words in str(error.value)


def test_something_else_than_a_topology_is_said() -> None:
    wrongs = ({"cores": 3}, {"nodes": {"x": "0"}}, {"types": 3}, {"node_memory": []}, {"node_distances": {"0": 10}})
    for wrong in ({}, *({**RYZEN, **wrong} for wrong in wrongs), "0-7"):
        with pytest.raises(AnsibleFilterError, match="not what isolation_facts returns"):
            made(wrong, vcpus=16)


FORMS = {
    name: form for module in (cpu_list, cpu_mask, cpu_set) for name, form in module.FilterModule().filters().items()
}


@given(st.sets(st.integers(0, 300)))
def test_the_filters_for_cpus_lead_to_the_same_cpus(numbers: set[int]) -> None:
    text = FORMS["cpu_list"](sorted(numbers))
    assert FORMS["cpu_set"](text) == sorted(numbers) == FORMS["cpu_set"](list(numbers))
    assert int(FORMS["cpu_mask"](text).replace(",", ""), 16) == sum(1 << cpu for cpu in numbers)


@pytest.mark.parametrize("wrong", ["x", True, None, ["0", {}], "3-1"])
@pytest.mark.parametrize("name", FORMS)
def test_what_is_no_cpus_is_said(name: str, wrong: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=name):
        FORMS[name](wrong)
