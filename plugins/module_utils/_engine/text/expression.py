# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The CPU language: every option that takes CPUs takes a string (or a list of strings) of comma-separated terms.

======================  =======================================================================
`0-6,16-22`, `0-31:1/2`  the kernel's list format
`C0-6,16-22`, `N0-1`     CPUs, or NUMA nodes; bare numbers behind an `N` term are nodes too
`node:` `package:` `die:`  by number; `die:1.0` is die 0 of package 1, where numbers start again in each
`core:3`, `l3:0`         CPU 3 with its SMT siblings, the CPUs that share CPU 0's L3 cache
`l3:largest`             the L3 domain with the most cache
`type:performance`       or `type:efficiency`, on hybrid CPUs
`vm:NAME`                a libvirt domain's vCPUs; `vm:NAME:emulator` its emulator and I/O threads
`all` `online` `isolated`  possible, online, boot-time isolated CPUs
`^TERM`                  without these CPUs
======================  =======================================================================

Terms are read from left to right, so `0-7,^3` is without CPU 3, as in libvirt.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence, Union

from ..errors import IsolationError, as_text, quoted
from .cpus import NONE, CpuSet, format_list, is_number, parse_range
from .topology import Topology

Expression = Union[str, int, Sequence[Union[str, int]]]

KNOWN = (
    "a CPU list, C<list>, N<list>, node:, package:, die:, core:, l3:, type:performance, type:efficiency, vm:,"
    " all, online or isolated"
)


def evaluate(expression: Expression, topology: Topology, option: str, must_be_online: bool = True) -> CpuSet:
    """The CPUs that an expression names on this host.

    `option` is the name to show in the message. Raises IsolationError for a term that cannot be read, one that
    names what the host does not have, or a CPU that is not online.
    """
    items: Sequence[object] = expression if isinstance(expression, (list, tuple)) else [expression]
    cpus: CpuSet = NONE
    position = 0
    for item in items:
        nodes_go_on = False
        for term in filter(None, (part.strip() for part in as_text(item).split(","))):
            position += 1
            body = term[1:].strip() if term.startswith("^") else term
            nodes_go_on = body[:1] == "N" or (nodes_go_on and is_number(body[:1]))
            try:
                found = _term("N" + body if nodes_go_on and body[:1] != "N" else body, topology)
                missing = found - topology.online()
                if missing and must_be_online and body != "all":
                    online = format_list(topology.online())
                    raise ValueError(f"CPU {format_list(missing)} is not online; online are {online}")
                if term.startswith("^") and position == 1:
                    raise ValueError(f"there is nothing yet to exclude it from; write online,{term}")
            except ValueError as error:
                raise IsolationError(f"{option}: term {position}, {quoted(term)}: {error}") from None
            cpus = cpus - found if term.startswith("^") else cpus | found
    if position == 0:
        raise IsolationError(f"{option}: no CPUs given; expected {KNOWN}")
    if not cpus:
        raise IsolationError(f"{option}: {quoted(','.join(map(as_text, items)))} leaves no CPU at all")
    return cpus


def is_given(expression: Any) -> bool:
    """Whether an optional expression is given; an empty string or list is not."""
    return expression not in (None, "", [])


def _term(body: str, topology: Topology) -> CpuSet:
    words: Dict[str, Callable[[], CpuSet]] = {
        "all": topology.possible,
        "online": topology.online,
        "isolated": topology.isolated,
    }
    if body in words:
        return words[body]()
    if body[:1] in ("C", "N"):
        numbers = parse_range(body[1:])
        return numbers if body[0] == "C" else _union(topology.node, numbers)
    name, colon, argument = body.partition(":")
    if colon and not is_number(name[:1]):
        return _named(name, argument, topology)
    if not is_number(body[:1]):
        raise ValueError(f"expected {KNOWN}")
    return parse_range(body)


def _named(name: str, argument: str, topology: Topology) -> CpuSet:
    if name == "type":
        if argument not in ("performance", "efficiency"):
            raise ValueError("expected type:performance or type:efficiency")
        return topology.core_type(argument)
    if name == "l3" and argument == "largest":
        return topology.largest_l3()
    if name == "vm":
        vm, _colon, part = argument.rpartition(":")
        return topology.vm(vm, part) if vm and part == "emulator" else topology.vm(argument, "")
    if name == "die" and "." in argument:
        package, _dot, number = argument.partition(".")
        if not is_number(package) or not is_number(number):
            raise ValueError("expected a die such as die:1, or with its package, die:0.1")
        return topology.die(int(number), int(package))
    by_number: Dict[str, Callable[[int], CpuSet]] = {
        "node": topology.node,
        "package": topology.package,
        "die": topology.die,
        "core": topology.core,
        "l3": topology.l3,
    }
    if name not in by_number:
        raise ValueError(f"expected {KNOWN}")
    return _union(by_number[name], parse_range(argument))


def _union(of: Callable[[int], CpuSet], numbers: CpuSet) -> CpuSet:
    return frozenset().union(*(of(number) for number in sorted(numbers)))
