# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The CPUs that a libvirt domain is pinned to, from its XML, which is not trusted.

Source: libvirt, Domain XML format, sections CPU allocation and CPU tuning.
"""

from __future__ import annotations

import re
from itertools import count, islice
from typing import Callable, Dict, Iterator, List, Optional, Tuple
from xml.parsers import expat

from ..errors import IsolationError
from .cgroup_path import of_slice
from .cpus import from_bits, is_number, parse_bits
from .domain import Domain, Thread
from .units import escape

# libvirt writes some ten KiB.
LIMIT = 1 << 20
DEPTH = 64

REAL_TIME = ("fifo", "rr")
# The most vCPUs and I/O threads of a domain that are looked at one by one; QEMU takes no more vCPUs.
MOST_THREADS = 1 << 12


def parse(text: bytes, has_machined: bool = True) -> Domain:
    """Read a domain's XML. Raises IsolationError if it is too large, has a document type, or cannot be read.

    The domain's cgroup depends on whether libvirt has systemd-machined make it.
    """
    if len(text) > LIMIT:
        raise IsolationError(f"the domain's XML has {len(text)} bytes; more than {LIMIT} are not read")
    reader = _Reader(_slice if has_machined else _directory)
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
    def __init__(self, cgroup_of: Callable[[List[str]], str]) -> None:
        self._cgroup_of = cgroup_of
        self._path: List[str] = []
        self._name: List[str] = []
        self._vcpus = 0
        self._number: List[str] = []
        # CPUs as bit sets: there may be as many pins as fit into the file.
        self._everywhere = 0  # vcpu/@cpuset: of threads that have no pinning of their own
        self._pins: Dict[str, int] = {}
        self._emulator = 0
        self._iothreads: Dict[str, int] = {}
        self._iothread_number: List[str] = []
        self._real_time = 0  # the numbers of these vCPUs, as a bit set
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
            self._iothreads[attributes.get("iothread", "")] = _cpus(attributes, where)
        elif where == "domain/iothreadids/iothread":
            self._iothreads.setdefault(attributes.get("id", ""), 0)
        elif where == "domain/cputune/vcpusched" and attributes.get("scheduler") in REAL_TIME:
            self._real_time |= _cpus(attributes, where, "vcpus")

    def end(self, _tag: str) -> None:
        self._path.pop()

    def characters(self, text: str) -> None:
        if self._path[-2:] == ["domain", "name"] and len(self._path) <= 3:
            self._name.append(text)
        elif self._path[-2:] == ["domain", "vcpu"] and len(self._path) <= 3:
            self._number.append(text)
        elif self._path[-2:] == ["domain", "iothreads"] and len(self._path) <= 3:
            self._iothread_number.append(text)
        elif self._path[-3:] == ["domain", "resource", "partition"] and len(self._path) <= 4:
            self._partition.append(text)

    def domain(self) -> Domain:
        number = _number(self._number)
        all_pinned = number is None or len(self._pins) >= number
        vcpus = iothreads = 0
        for bits in self._pins.values():
            vcpus |= bits
        for bits in self._iothreads.values():
            iothreads |= bits
        return Domain(
            "".join(self._name),
            from_bits(vcpus if all_pinned and vcpus else vcpus | self._everywhere),
            from_bits((self._emulator or self._everywhere) | iothreads),
            self._cgroup_of([name for name in "".join(self._partition).split("/") if name.strip()] or ["machine"]),
            self._is_placed,
            tuple(self._threads(len(self._pins) if number is None else number)),
        )

    def _threads(self, vcpus: int) -> Iterator[Thread]:
        for i in range(min(vcpus, MOST_THREADS)):
            bits, pin = self._pins.get(str(i), self._everywhere), f"<vcpupin vcpu='{i}' cpuset='...'/>"
            yield Thread(f"vCPU {i}", bits, pin, True, bool(self._real_time >> i & 1))
        yield Thread("emulator", self._emulator or self._everywhere, "<emulatorpin cpuset='...'/>")
        # Those without an id of their own have the lowest numbers that are left.
        ids = {name for name in self._iothreads if is_number(name)}
        free = (str(i) for i in count(1) if str(i) not in ids)
        missing = min(_number(self._iothread_number) or 0, MOST_THREADS) - len(ids)
        for name in sorted({*ids, *islice(free, max(0, missing))}, key=int):
            pin = f"<iothreadpin iothread='{name}' cpuset='...'/>"
            yield Thread(f"I/O thread {name}", self._iothreads.get(name) or self._everywhere, pin)


def _slice(partition: List[str]) -> str:
    """The cgroup of a resource partition: `/a/b` is a.slice/a-b.slice, see systemd.slice(5) and libvirt, cgroups."""
    return of_slice([escape(name) for name in partition])


def _directory(partition: List[str]) -> str:
    """The same without systemd-machined: `/a/b` is /a.partition/b.partition, and /machine is itself.

    Source: libvirt, virCgroupSetPartitionSuffix and virCgroupPartitionNeedsEscaping.
    """
    names = []
    for depth, name in enumerate(partition):
        if "." not in name and (depth or name not in ("machine", "system", "user")):
            name = f"{name}.partition"
        # With a name that begins like this, it could not be told from a file of a cgroup.
        names.append(f"_{name}" if name[0] in "_." or name.split(".")[0] == "cgroup" else name)
    return "/" + "/".join(names)


def _number(text: List[str]) -> Optional[int]:
    found = "".join(text).strip()
    return int(found) if re.match(r"[0-9]{1,6}\Z", found) else None


def _cpus(attributes: Dict[str, str], where: str, name: str = "cpuset") -> int:
    """A cpuset attribute: a CPU list in which `^3` leaves CPU 3 out."""
    text = attributes.get(name, "")
    left_out: Tuple[str, ...] = tuple(term.strip()[1:] for term in text.split(",") if term.strip().startswith("^"))
    kept = ",".join(term for term in text.split(",") if not term.strip().startswith("^"))
    try:
        return parse_bits(kept) & ~parse_bits(",".join(left_out))
    except ValueError as error:
        raise IsolationError(f"the domain's XML has {name}={text!r} in {where}: {error}") from None
