# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any input of the filters: a result, or an AnsibleFilterError."""

from __future__ import annotations

import sys
from typing import Any, Dict

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.vfio.isolation.plugins.filter import cpu_list, cpu_mask, cpu_set
from ansible_collections.vfio.isolation.plugins.filter.cputune import cputune
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import (
    changed_json,
    changed_text,
    texts,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

FACTS = {
    "possible": "0-7",
    "online": "0-7",
    "isolated_at_boot": "",
    "nodes": {"0": "0-3", "1": "4-7"},
    "node_memory": {"0": 1 << 30, "1": 0},
    "node_distances": {"0": {"0": 10, "1": 21}, "1": {"0": 21, "1": 10}},
    "packages": {"0": "0-7"},
    "dies": {"0": "0-7"},
    "cores": ["0-1", "2-3", "4-5", "6-7"],
    "l3": [{"cpus": "0-3", "bytes": 1 << 20}, {"cpus": "4-7", "bytes": 1 << 21}],
    "types": {"performance": "0-3", "efficiency": "4-7"},
}
OPTIONS: Dict[str, Any] = {
    "vcpus": 4,
    "cpus": "l3:largest",
    "emulator_cpus": "0",
    "iothreads": 1,
    "iothread_cpus": "1",
    "siblings": True,
    "vcpu_scheduler": {"scheduler": "rr", "priority": 1},
    "iothread_scheduler": {"scheduler": "fifo", "priority": 98},
}
HUGE = 10**5000  # more digits than Python turns into text


def is_made_or_refused(call: Any) -> None:
    """By one filter."""
    try:
        assert call() is not None
    except AnsibleFilterError as error:
        assert str(error)


@given(st.lists(changed_text("0-3,8") | texts() | values(), max_size=3) | values() | texts(), st.booleans())
def test_any_cpus(cpus: Any, as_tuple: bool) -> None:
    for module in (cpu_list, cpu_mask, cpu_set):
        for read in module.FilterModule().filters().values():
            is_made_or_refused(lambda read=read: read(tuple(cpus) if as_tuple and isinstance(cpus, list) else cpus))


@given(changed_json(FACTS), changed_json(OPTIONS).filter(lambda options: isinstance(options, dict)))
def test_any_topology_and_any_options(facts: Any, options: Dict[str, Any]) -> None:
    is_made_or_refused(lambda: cputune(FACTS, **{"vcpus": 1, **options}))
    is_made_or_refused(lambda: cputune(facts, **OPTIONS))


@given(st.sampled_from(sorted(OPTIONS)), values() | texts())
def test_any_value_of_an_option(option: str, value: Any) -> None:
    is_made_or_refused(lambda: cputune(FACTS, **{**OPTIONS, option: value}))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("vcpu_scheduler", "rr"),
        ("vcpu_scheduler", ["rr"]),
        ("iothread_scheduler", 5),
        ("vcpus", float("inf")),
        ("vcpus", float("nan")),
        ("iothreads", float("inf")),
        ("iothreads", 1 << 60),
        ("siblings", {}),
        ("cpus", {}),
    ],
)
def test_what_is_no_value_of_an_option(option: str, value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=r"^cputune: "):
        cputune(FACTS, **{**OPTIONS, option: value})


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="this Python writes any number")
def test_a_number_that_python_does_not_write() -> None:
    for given_ in (HUGE, [HUGE]):
        with pytest.raises(AnsibleFilterError, match=r"^cpu_set: "):
            cpu_set.FilterModule().filters()["cpu_set"](given_)
    with pytest.raises(AnsibleFilterError, match=r"^cputune: "):
        cputune(FACTS, **{**OPTIONS, "vcpus": HUGE})
    with pytest.raises(AnsibleFilterError, match=r"^cputune: "):
        cputune(FACTS, **{**OPTIONS, "cpus": HUGE})
