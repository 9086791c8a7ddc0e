# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The CPUs that a libvirt domain is pinned to, from its XML, which is not trusted.

Source: libvirt, Domain XML format, sections CPU allocation and CPU tuning.
"""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Tuple
from xml.parsers import expat

from ..errors import IsolationError
from .cgroup_path import of_slice
from .cpus import CpuSet, from_bits, parse_bits
from .units import escape

# libvirt writes some ten KiB.
LIMIT = 1 << 20
DEPTH = 64

PIN_VCPUS = "<cputune><vcpupin vcpu='0' cpuset='8'/>...</cputune>"
PIN_EMULATOR = "<cputune><emulatorpin cpuset='7'/></cputune>"


class Domain(NamedTuple):
    """A domain's name, the CPUs of its threads (none if they are not pinned), and its cgroup above the scope."""

    name: str
    vcpus: CpuSet
    emulator: CpuSet  # with the I/O threads
    cgroup: str = "/machine.slice"
    is_placed: bool = False  # by libvirt itself, if the XML does not pin it (placement='auto')


def parse(text: bytes) -> Domain:
    """Read a domain's XML. Raises IsolationError if it is too large, has a document type, or cannot be read."""
    if len(text) > LIMIT:
        raise IsolationError(f"the domain's XML has {len(text)} bytes; more than {LIMIT} are not read")
    reader = _Reader()
    # As libvirt writes it, whatever encoding it declares: some of Python's decoders raise unexpected exceptions.
    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    # Entities can only be declared in a document type: without one, nothing expands.
    parser.StartDoctypeDeclHandler = reader.doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise IsolationError(f"the domain's XML cannot be read: {error}") from None
    return reader.domain()


class _Reader:
    def __init__(self) -> None:
        self._path: List[str] = []
        self._name: List[str] = []
        self._vcpus = 0
        self._number: List[str] = []
        # CPUs as bit sets: there may be as many pins as fit into the file.
        self._everywhere = 0  # vcpu/@cpuset: of threads that have no pinning of their own
        self._pins: Dict[str, int] = {}
        self._emulator = 0
        self._iothreads = 0
        self._partition: List[str] = []
        self._is_placed = False

    def doctype(self, *_declaration: object) -> None:
        raise IsolationError("the domain's XML has a document type, which libvirt never writes; it is not read")

    def start(self, tag: str, attributes: Dict[str, str]) -> None:
        self._path.append(tag)
        if len(self._path) > DEPTH:
            raise IsolationError(f"the domain's XML is nested more than {DEPTH} deep; it is not read")
        # The file of a running domain has its XML inside another element.
        where = "/".join(self._path[1:] if self._path[0] == "domstatus" else self._path)
        if where == "domain/vcpu":
            self._is_placed = attributes.get("placement") == "auto"
            self._everywhere = _cpus(attributes, where) if "cpuset" in attributes else 0
        elif where == "domain/cputune/vcpupin":
            self._pins[attributes.get("vcpu", "")] = _cpus(attributes, where)
        elif where == "domain/cputune/emulatorpin":
            self._emulator = _cpus(attributes, where)
        elif where == "domain/cputune/iothreadpin":
            self._iothreads |= _cpus(attributes, where)

    def end(self, _tag: str) -> None:
        self._path.pop()

    def characters(self, text: str) -> None:
        if self._path[-2:] == ["domain", "name"] and len(self._path) <= 3:
            self._name.append(text)
        elif self._path[-2:] == ["domain", "vcpu"] and len(self._path) <= 3:
            self._number.append(text)
        elif self._path[-3:] == ["domain", "resource", "partition"] and len(self._path) <= 4:
            self._partition.append(text)

    def domain(self) -> Domain:
        number = "".join(self._number).strip()
        all_pinned = len(self._pins) >= int(number) if re.match(r"[0-9]{1,6}\Z", number) else True
        vcpus = 0
        for bits in self._pins.values():
            vcpus |= bits
        return Domain(
            "".join(self._name),
            from_bits(vcpus if all_pinned and vcpus else vcpus | self._everywhere),
            from_bits((self._emulator or self._everywhere) | self._iothreads),
            _slice("".join(self._partition).strip() or "/machine"),
            self._is_placed,
        )


def _slice(partition: str) -> str:
    """The cgroup of a resource partition: `/a/b` is a.slice/a-b.slice, see systemd.slice(5) and libvirt, cgroups."""
    return of_slice([escape(name) for name in partition.split("/") if name])


def _cpus(attributes: Dict[str, str], where: str) -> int:
    """A cpuset attribute: a CPU list in which `^3` leaves CPU 3 out."""
    text = attributes.get("cpuset", "")
    left_out: Tuple[str, ...] = tuple(term.strip()[1:] for term in text.split(",") if term.strip().startswith("^"))
    kept = ",".join(term for term in text.split(",") if not term.strip().startswith("^"))
    try:
        return parse_bits(kept) & ~parse_bits(",".join(left_out))
    except ValueError as error:
        raise IsolationError(f"the domain's XML has cpuset={text!r} in {where}: {error}") from None
