# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a domain's XML says of CPUs, and what of it is not read."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import parse_list
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.domain import Domain
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.domain_xml import parse


def domain(inside: str, vcpu: str = "<vcpu placement='static'>2</vcpu>") -> Domain:
    """A domain with these elements."""
    return parse(f"<domain type='kvm'><name>win11</name>{vcpu}<cputune>{inside}</cputune></domain>".encode())


PINS = "<vcpupin vcpu='0' cpuset='8'/><vcpupin vcpu='1' cpuset='24-25,^25'/>"


def test_pinned_vcpus_emulator_and_io_threads() -> None:
    found = domain(f"{PINS}<emulatorpin cpuset='7,23'/><iothreadpin iothread='1' cpuset='6'/>")
    assert found[:3] == ("win11", {8, 24}, {6, 7, 23})


def test_what_is_not_pinned_is_where_vcpu_says() -> None:
    everywhere = "<vcpu cpuset='4-7,^6'>2</vcpu>"
    assert domain("", everywhere)[:3] == ("win11", {4, 5, 7}, {4, 5, 7})
    assert domain("<vcpupin vcpu='0' cpuset='8'/>", everywhere).vcpus == {4, 5, 7, 8}
    assert domain(PINS, everywhere).vcpus == {8, 24}


def test_no_pins_are_none() -> None:
    assert domain("")[:3] == ("win11", frozenset(), frozenset())


ONE_EACH = f"{PINS}<emulatorpin cpuset='7'/>"
ON_FOUR = "<vcpu cpuset='4-7'>4</vcpu>"


@pytest.mark.parametrize(
    ("inside", "vcpu", "why"),
    [
        (ONE_EACH, "<vcpu>2</vcpu>", ""),
        (
            ONE_EACH,
            "<vcpu>2</vcpu><iothreads>1</iothreads>",
            "its I/O thread 1 is not pinned (add <iothreadpin iothread='1'",
        ),
        (f"{ONE_EACH}<iothreadpin iothread='1' cpuset='7'/>", "<vcpu>2</vcpu><iothreads>1</iothreads>", ""),
        (
            f"{ONE_EACH}<iothreadpin iothread='3' cpuset='7'/>",
            "<vcpu>2</vcpu><iothreads>2</iothreads>",
            "its I/O thread 1 is",
        ),
        (ONE_EACH, "<vcpu>2</vcpu><iothreadids><iothread id='5'/></iothreadids>", "its I/O thread 5 is not pinned"),
        ("", ON_FOUR, "its vCPU 0 is pinned to several CPUs, 4-7 (<vcpupin vcpu='0' cpuset='...'/>)"),
        (
            "".join(f"<vcpupin vcpu='{i}' cpuset='4-7'/>" for i in range(4)),
            "<vcpu>4</vcpu>",
            "its vCPU 0 is pinned to several",
        ),
        (
            "".join(f"<vcpupin vcpu='{i}' cpuset='{i}'/>" for i in range(4)),
            "<vcpu>8</vcpu>",
            "its vCPU 4 is not pinned (add <",
        ),
        (PINS, "<vcpu>2</vcpu>", "its emulator is not pinned (add <emulatorpin cpuset='...'/>)"),
        (f"{PINS}<emulatorpin cpuset='6-7'/>", "<vcpu>2</vcpu>", "its emulator is pinned to several CPUs, 6-7"),
        (f"{PINS}<emulatorpin cpuset='8'/>", "<vcpu>2</vcpu>", "its vCPU 0 and its emulator share CPU 8 (<emulatorpin"),
        (
            "<vcpupin vcpu='0' cpuset='8'/><vcpupin vcpu='1' cpuset='8'/>",
            "<vcpu>2</vcpu>",
            "its vCPU 0 and its vCPU 1 share CPU 8",
        ),
    ],
)
def test_threads_that_float_or_share_a_cpu_need_the_kernel_to_spread_them(inside: str, vcpu: str, why: str) -> None:
    found = domain(inside, vcpu).why_balanced()
    assert found.startswith(why) and bool(found) == bool(why), found


REAL_TIME = "<vcpusched vcpus='0-1' scheduler='fifo' priority='1'/>"


@pytest.mark.parametrize(
    ("inside", "vcpu", "others", "why"),
    [
        (f"{PINS}{REAL_TIME}", "<vcpu>2</vcpu>", "", "its emulator shares CPUs with real-time vCPUs"),
        (f"{PINS}{REAL_TIME}", "<vcpu>2</vcpu>", "7", ""),  # it finds a CPU of its own
        (f"{ONE_EACH}{REAL_TIME}", "<vcpu>2</vcpu>", "", ""),
        (f"{PINS}<emulatorpin cpuset='8,24'/>{REAL_TIME}", "<vcpu>2</vcpu>", "0-7", "its emulator shares CPUs"),
        (f"{PINS}<emulatorpin cpuset='7-8'/>{REAL_TIME}", "<vcpu>2</vcpu>", "", ""),
        (
            f"{ONE_EACH}<iothreadpin iothread='1' cpuset='8'/>{REAL_TIME}",
            "<vcpu>2</vcpu>",
            "0",
            "its I/O thread 1 shares",
        ),
        (f"{PINS}{REAL_TIME.replace('0-1', '0')}", "<vcpu>2</vcpu>", "", ""),  # vCPU 1 gives its CPU up
        (f"{PINS}{REAL_TIME.replace('0-1', '0-1,^1')}", "<vcpu>2</vcpu>", "", ""),
        (f"{PINS}{REAL_TIME.replace('fifo', 'rr')}", "<vcpu>2</vcpu>", "", "its emulator shares"),
        (f"{PINS}{REAL_TIME.replace('fifo', 'batch')}", "<vcpu>2</vcpu>", "", ""),
        (REAL_TIME, ON_FOUR, "", "its emulator shares CPUs"),
        (PINS, "<vcpu>2</vcpu>", "", ""),
    ],
)
def test_threads_that_starve_beside_real_time_vcpus(inside: str, vcpu: str, others: str, why: str) -> None:
    found = domain(inside, vcpu).why_starving(parse_list(others))
    assert found.startswith(why) and bool(found) == bool(why), found


def test_many_threads_with_many_cpus_cost_little() -> None:
    pins = "".join(f"<vcpupin vcpu='{i}' cpuset='{i % 9}-8191'/>" for i in range(4096))
    found = domain(pins, "<vcpu>999999</vcpu><iothreads>999999</iothreads>")
    assert len(found.threads) == 2 * 4096 + 1 and found.why_balanced() and not found.why_starving(found.emulator)


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


@pytest.mark.parametrize(
    ("resource", "cgroup"),
    [
        ("", "/machine"),
        ("<resource/>", "/machine"),
        ("<resource><partition/></resource>", "/machine"),
        *(
            (f"<resource><partition>{partition}</partition></resource>", cgroup)
            for partition, cgroup in (
                ("/", "/machine"),
                ("/machine", "/machine"),
                ("/system", "/system"),
                ("/user", "/user"),
                ("/machine/a", "/machine/a.partition"),
                ("/vfio", "/vfio.partition"),
                ("/vfio/", "/vfio.partition"),
                ("/a/b", "/a.partition/b.partition"),
                ("/a/machine", "/a.partition/machine.partition"),
                ("/machines", "/machines.partition"),
                ("/a-b/é", "/a-b.partition/é.partition"),
                ("/a.b", "/a.b"),
                ("/a.b/c", "/a.b/c.partition"),
                ("/_x", "/__x.partition"),
                ("/.x", "/_.x"),
                ("/a/_x.y", "/a.partition/__x.y"),
                ("/cgroup.x", "/_cgroup.x"),
                ("/cgroup", "/_cgroup.partition"),
                ("/cpu.x", "/cpu.x"),
                ("/cpus.x", "/cpus.x"),
                ("/x.cpu", "/x.cpu"),
            )
        ),
    ],
)
def test_without_systemd_machined_a_resource_partition_is_a_directory(resource: str, cgroup: str) -> None:
    text = f"<domain><name>win11</name>{resource}</domain>".encode()
    assert parse(text, has_machined=False).cgroup == cgroup
    assert parse(text).cgroup == parse(text, has_machined=True).cgroup != cgroup


def test_placement_by_libvirt() -> None:
    assert domain("", "<vcpu placement='auto'>2</vcpu>").is_placed and not domain("").is_placed


@pytest.mark.parametrize("number", ["²", "9" * 5000, "", "two"])
def test_a_number_of_vcpus_that_is_none(number: str) -> None:
    assert domain(PINS, f"<vcpu>{number}</vcpu>").vcpus == {8, 24}
