# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a domain's XML says of CPUs, and what of it is not read."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.domain_xml import Domain, parse


def domain(inside: str, vcpu: str = "<vcpu placement='static'>2</vcpu>") -> Domain:
    """A domain with these elements."""
    return parse(f"<domain type='kvm'><name>win11</name>{vcpu}<cputune>{inside}</cputune></domain>".encode())


PINS = "<vcpupin vcpu='0' cpuset='8'/><vcpupin vcpu='1' cpuset='24-25,^25'/>"


def test_pinned_vcpus_emulator_and_io_threads() -> None:
    found = domain(f"{PINS}<emulatorpin cpuset='7,23'/><iothreadpin iothread='1' cpuset='6'/>")
    assert found == Domain("win11", frozenset({8, 24}), frozenset({6, 7, 23}))


def test_what_is_not_pinned_is_where_vcpu_says() -> None:
    everywhere = "<vcpu cpuset='4-7,^6'>2</vcpu>"
    assert domain("", everywhere) == Domain("win11", frozenset({4, 5, 7}), frozenset({4, 5, 7}))
    assert domain("<vcpupin vcpu='0' cpuset='8'/>", everywhere).vcpus == {4, 5, 7, 8}
    assert domain(PINS, everywhere).vcpus == {8, 24}


def test_no_pins_are_none() -> None:
    assert domain("") == Domain("win11", frozenset(), frozenset())


def test_elements_of_that_name_elsewhere_say_nothing() -> None:
    hidden = "<metadata><domain><cputune><vcpupin vcpu='0' cpuset='1'/></cputune></domain></metadata>"
    assert domain(PINS, f"<vcpu>2</vcpu>{hidden}").vcpus == {8, 24}


BOMB = "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><domain><name>&b;</name></domain>"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "has a document type"),
        ("<!DOCTYPE d SYSTEM 'file:///etc/passwd'><domain/>", "has a document type"),
        ("<domain><name>&b;</name></domain>", "cannot be read: undefined entity"),
        ("<domain>" + " " * (10 << 20) + "</domain>", "more than 1048576 are not read"),
        ("<a>" * 100, "nested more than 64 deep"),
        ("", "cannot be read: no element found"),
        ("\x00", "cannot be read"),
        ("<domain><vcpu cpuset='x'/></domain>", "has cpuset='x' in domain/vcpu"),
        ("<domain><vcpu cpuset='0-99999999999'/></domain>", "has cpuset="),
    ],
)
def test_hostile_xml_is_refused(text: str, words: str) -> None:
    with pytest.raises(IsolationError, match=words):
        parse(text.encode())


@pytest.mark.parametrize(
    ("partition", "cgroup"),
    [
        ("/machine", "/machine.slice"),
        ("/vfio", "/vfio.slice"),
        ("/a/b", "/a.slice/a-b.slice"),
        ("/a-b/é", "/a\\x2db.slice/a\\x2db-\\xc3\\xa9.slice"),
    ],
)
def test_a_resource_partition_is_a_slice(partition: str, cgroup: str) -> None:
    assert domain("").cgroup == "/machine.slice"
    resource = f"<vcpu>2</vcpu><resource><partition>{partition}</partition></resource>"
    assert domain("", resource).cgroup == cgroup


def test_placement_by_libvirt() -> None:
    assert domain("", "<vcpu placement='auto'>2</vcpu>").is_placed and not domain("").is_placed


@pytest.mark.parametrize("number", ["²", "9" * 5000, "", "two"])
def test_a_number_of_vcpus_that_is_none(number: str) -> None:
    assert domain(PINS, f"<vcpu>{number}</vcpu>").vcpus == {8, 24}
