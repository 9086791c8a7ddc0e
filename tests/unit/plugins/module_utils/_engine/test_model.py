# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses and skips, which are values."""

from __future__ import annotations

import json

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Address, Skips, of_kind
from hypothesis import given
from hypothesis import strategies as st

kinds = st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"]), min_size=1)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(kinds, names)
def test_an_address_has_a_kind_and_a_name_and_is_its_own_text(kind: str, name: str) -> None:
    address = Address(kind, name)
    assert (address.kind, address.name) == (kind, name)
    assert address == f"{kind}:{name}" == str(address)
    assert {f"{kind}:{name}": 1}[address] == 1 and hash(address) == hash(f"{kind}:{name}")


@given(kinds, names)
def test_an_address_comes_back_from_its_text_and_out_of_json(kind: str, name: str) -> None:
    address = Address(kind, name)
    again = Address.parse(json.loads(json.dumps({address: [address]})).popitem()[0])
    assert again == address and (again.kind, again.name) == (kind, name)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("irq.affinity:24", "irq.affinity", "24"),
        ("irq.default:", "irq.default", ""),
        ("task.cgroup:12:345", "task.cgroup", "12:345"),
        ("cgroup.cpus:/a:b", "cgroup.cpus", "/a:b"),
        (":x", "", "x"),
    ],
)
def test_the_name_is_all_behind_the_first_colon(text: str, kind: str, name: str) -> None:
    address = Address.parse(text)
    assert (address.kind, address.name) == (kind, name) and address == text


def test_an_address_without_a_name_is_all_of_a_kind_and_one_with_an_empty_name_is_one_setting() -> None:
    assert Address("cpufreq.governor") == "cpufreq.governor" and Address("cpufreq.governor").name == ""
    assert Address("irq.default", "") == "irq.default:" and Address("irq.default", "") != Address("irq.default")


def test_addresses_sort_as_their_texts() -> None:
    texts = ["irq.affinity:24", "cgroup.cpus:/a", "irq.affinity:3"]
    assert sorted(map(Address.parse, texts)) == sorted(texts)


def test_the_names_of_one_kind_keep_their_order() -> None:
    addresses = [Address("a", "2"), Address("b", "1"), Address("a", "1"), Address("ab", "3"), Address("a")]
    assert list(of_kind(addresses, "a")) == ["2", "1", ""]
    assert list(of_kind(dict.fromkeys(addresses, ""), "b")) == ["1"]


def test_the_last_word_about_a_skip_counts() -> None:
    skips, one, other = Skips(), Address("a", "1"), Address("b", "2")
    skips.add(other, "managed", permanent=True)
    skips.add(one, "busy", permanent=True)
    skips.add(one, "still busy")
    assert one in skips and list(skips.reasons().items()) == [(one, "still busy"), (other, "managed")]
    assert skips.permanent() == {other: "managed"}
    skips.discard(other)
    skips.discard(other)
    assert other not in skips and skips.permanent() == {} and [skip.reason for skip in skips] == ["still busy"]


@given(st.lists(st.tuples(kinds, names, st.booleans())))
def test_skips_are_one_for_each_address(given_skips: list) -> None:
    skips = Skips()
    for kind, reason, permanent in given_skips:
        skips.add(Address(kind, "1"), reason, permanent)
    assert Skips(skips).reasons() == skips.reasons() and Skips(skips).permanent() == skips.permanent()
    assert list(skips.reasons()) == sorted({f"{kind}:1" for kind, _reason, _permanent in given_skips})
    assert skips.permanent().items() <= skips.reasons().items()
