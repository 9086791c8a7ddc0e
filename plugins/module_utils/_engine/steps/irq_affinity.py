# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""irq_affinity: the CPUs that may handle interrupts."""

from __future__ import annotations

import fnmatch
import re
from typing import Any, Dict, List, Mapping, Optional, Set

from ..errors import IsolationError
from ..kernel.irqbalance import NO_ANSWER
from ..planning.view import State
from ..text.cpus import CpuSet, format_list

ARGUMENTS: Dict[str, Any] = {
    "operation": {"type": "str", "choices": ["mask", "add", "set"], "default": "mask"},
    "cpus": {"type": "raw", "required": True},
    "irqs": {"type": "list", "elements": "int"},
    "names": {"type": "list", "elements": "str"},
    "pci": {"type": "list", "elements": "str"},
    "default": {"type": "bool"},
    "irqbalance": {"type": "bool"},
}

DEFAULT = "irq.default:"


def plan(arguments: Mapping[str, Any], state: State) -> None:
    """The chosen interrupts, or all of them with the default affinity and irqbalance's ban."""
    cpus = state.evaluate(arguments["cpus"], "cpus")
    chosen = _chosen(arguments, state)
    everything = chosen is None
    operation = arguments["operation"]
    if operation == "mask":
        state.masked |= cpus
    for number in state.resources.irqs.numbers() if chosen is None else chosen:
        _move(state, number, operation, cpus)
    if everything if arguments["default"] is None else arguments["default"]:
        state.assign(DEFAULT, _changed(state, DEFAULT, operation, cpus))
    ban = (everything and operation == "mask") if arguments["irqbalance"] is None else arguments["irqbalance"]
    process = state.resources.irqbalance.running() if ban else None
    if process:
        address = f"irqbalance.banned:{process}"
        if state.actual(address) in (None, NO_ANSWER):
            state.skip(address, "irqbalance does not answer on its socket: it may move interrupts back")
            return
        banned = state.cpus(address)
        others = state.resources.topology.online() - cpus
        state.assign(address, format_list({"mask": banned | cpus, "add": banned - cpus, "set": others}[operation]))


def _chosen(arguments: Mapping[str, Any], state: State) -> Optional[List[int]]:
    irqs = state.resources.irqs
    numbers: Set[int] = set()
    if all(arguments[option] is None for option in ("irqs", "names", "pci")):
        return None
    there = irqs.numbers()
    for number in arguments["irqs"] or []:
        if number not in there:
            raise IsolationError(f"irqs: there is no interrupt {number} with an affinity; see /proc/interrupts")
        numbers.add(number)
    for pattern in arguments["names"] or []:
        found = {n for n in there if any(fnmatch.fnmatchcase(a, pattern) for a in irqs.actions(n).split(","))}
        if not found:
            raise IsolationError(f"names: no interrupt's handler is named {pattern!r}; see /proc/interrupts")
        numbers |= found
    for address in arguments["pci"] or []:
        if not re.match(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\Z", address):
            raise IsolationError(f"pci: {address!r} is no PCI address such as 0000:01:00.0")
        of_device = irqs.of_pci(address)
        if of_device is None:
            raise IsolationError(f"pci: there is no PCI device {address}; see lspci -D")
        numbers.update(set(of_device) & set(there))
    return sorted(numbers)


def _move(state: State, number: int, operation: str, cpus: CpuSet) -> None:
    address = f"irq.affinity:{number}"
    _inherit(state, address)
    wanted = _changed(state, address, operation, cpus)
    if wanted != state.actual(address):
        reason = f"managed by the kernel ({state.resources.irqs.actions(number) or 'no handler'})"
        # What the journal knows of this very interrupt need not be tried again.
        if state.journal.refused.get(address) == reason or state.resources.irqs.immovable(number):
            state.skip(address, reason)
            return
    state.assign(address, wanted)


def _inherit(state: State, address: str) -> None:
    """An interrupt that was requested while the default was narrow is to get what the default is given back to."""
    wide = state.journal.baseline.get(DEFAULT)
    known = any(address in claim.holds for claim in state.journal.claims.values())
    if wide is not None and not known and state.actual(address) == state.actual(DEFAULT) != wide:
        state.requested_under_default[address] = wide


def _changed(state: State, address: str, operation: str, cpus: CpuSet) -> str:
    now = state.cpus(address)
    if operation == "set":
        return format_list(cpus)
    if operation == "add":
        return format_list(now | cpus)
    online = state.resources.topology.online()
    left = now - cpus
    if left & online:
        return format_list(left)
    if not online - state.masked:
        raise IsolationError(f"cpus: {format_list(state.masked)} are all CPUs of this host; interrupts need one")
    return format_list(online - state.masked)


def inheritors(state: State, held: Set[str]) -> None:
    """Give interrupts that were requested while the default was narrowed what the default is given back to.

    They inherited the narrow default and have no 'before'.
    """
    narrow, wide = state.actual(DEFAULT), state.get(DEFAULT)
    if DEFAULT not in state.restored or narrow == wide:
        return
    for number in state.resources.irqs.numbers():
        address = f"irq.affinity:{number}"
        inherited = address not in held and address not in state.planned and state.actual(address) == narrow
        if inherited and not state.resources.irqs.immovable(number):
            state.assign(address, wide)
