# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The XML of a domain, which is anybody's: read, or refused in a sentence."""

from __future__ import annotations

import tracemalloc

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cgroup_path import is_valid, normalized
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import LIMIT
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.domain_xml import parse
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import changed_text, texts
from hypothesis import given
from hypothesis import strategies as st

XML = """<?xml version="1.0" encoding="UTF-8"?>
<domain type="kvm"><name>win11</name><vcpu placement="static" cpuset="4-7,^6">2</vcpu><iothreads>1</iothreads>
<resource><partition>/machine/a</partition></resource><cputune><vcpupin vcpu="0" cpuset="8"/>
<vcpupin vcpu="1" cpuset="24"/><emulatorpin cpuset="7,23"/><iothreadpin iothread="1" cpuset="6"/></cputune></domain>"""
ENCODINGS = (
    "",
    "foo",
    "shift_jis",
    "hex",
    "punycode",
    "idna",
    "utf-7",
    "utf-16",
    "cp1252",
    "undefined",
    "unicode_escape",
)


def is_read_or_refused(text: bytes) -> None:
    """Nothing else happens."""
    try:
        domain = parse(text)
    except IsolationError as error:
        assert str(error).startswith("the domain's XML ")
        return
    assert max(domain.vcpus | domain.emulator, default=0) < LIMIT and is_valid(normalized(domain.cgroup))


@given(changed_text(XML))
def test_any_text_in_any_place(text: str) -> None:
    is_read_or_refused(text.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=60), st.integers(0, len(XML)))
def test_any_bytes_in_any_place(noise: bytes, place: int) -> None:
    is_read_or_refused(noise)
    is_read_or_refused(XML[:place].encode() + noise + XML[place:].encode())


@given(texts(), st.sampled_from(["win11", "4-7,^6", ">2<", "/machine/a", 'vcpu="0"', '"8"', '"7,23"']))
def test_any_value(value: str, place: str) -> None:
    is_read_or_refused(XML.replace(place.strip("<>"), value).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_encoding(encoding: str) -> None:
    is_read_or_refused(XML.replace("UTF-8", encoding).encode())


@pytest.mark.parametrize(
    "pins",
    [
        "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{vcpu % 50}-{LIMIT - 1}'/>" for vcpu in range(20000)),
        f"<vcpupin vcpu='0' cpuset='{f'0-{LIMIT - 1},' * 50000}1'/>",
        f"<iothreadpin iothread='1' cpuset='{f'^0-{LIMIT - 1},' * 50000}1'/>",
    ],
    ids=["many pins", "a long list", "a long list of what is left out"],
)
def test_all_cpus_again_and_again_do_not_fill_the_memory(pins: str) -> None:
    """A mebibyte of XML once came to 16 gibibytes."""
    text = f"<domain><name>x</name><vcpu>1</vcpu><cputune>{pins}</cputune></domain>".encode()
    tracemalloc.start()
    try:
        parse(text)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
