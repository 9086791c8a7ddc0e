# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""irq_affinity: the CPUs that may handle interrupts."""

from __future__ import annotations

import fnmatch
import re
from typing import Any, ClassVar, List, Mapping, Optional, Set, Tuple

from ..errors import IsolationError, quoted
from ..kernel.irq import AFFINITY, IRQ, NEW_INTERRUPTS
from ..kernel.irqbalance import BANNED, NO_ANSWER, SOCKETS
from ..model import Address
from ..planning.step_type import ArgumentSpec, StepType
from ..planning.view import View
from ..text.cpus import NONE, CpuSet, format_list


class Masked:
    """The CPUs that irq_affinity steps keep interrupts off: an interrupt that has no CPU left gets none of these."""

    cpus: CpuSet = NONE


class IrqAffinity(StepType):
    """The chosen interrupts, or all of them with the default affinity and irqbalance's ban."""

    ARGUMENTS: ClassVar[ArgumentSpec] = {
        "operation": {"type": "str", "choices": ["mask", "add", "set"], "default": "mask"},
        "cpus": {"type": "raw", "required": True},
        "irqs": {"type": "list", "elements": "int"},
        "names": {"type": "list", "elements": "str"},
        "pci": {"type": "list", "elements": "str"},
        "default": {"type": "bool"},
        "irqbalance": {"type": "bool"},
    }

    def plan(self, arguments: Mapping[str, Any], view: View) -> None:
        """The new affinity of each interrupt: the operation applied to the one that it has."""
        cpus = view.evaluate(arguments["cpus"], "cpus")
        chosen = _chosen(arguments, view)
        everything = chosen is None
        if everything and not view.resources.irqs.exist():
            view.skips.add(Address(AFFINITY), f"this kernel has no {IRQ}: no interrupt can be moved")
            return
        operation = arguments["operation"]
        if operation == "mask":
            view.shared(Masked).cpus |= cpus
        for number in view.resources.irqs.numbers() if chosen is None else chosen:
            _move(view, number, operation, cpus)
        if everything if arguments["default"] is None else arguments["default"]:
            if view.actual(NEW_INTERRUPTS) is None:
                view.skips.add(NEW_INTERRUPTS, f"this host has no {IRQ}/default_smp_affinity")
            else:
                view.assign(NEW_INTERRUPTS, _changed(view, NEW_INTERRUPTS, operation, cpus))
        if (everything and operation == "mask") if arguments["irqbalance"] is None else arguments["irqbalance"]:
            _ban(view, operation, cpus)


def _chosen(arguments: Mapping[str, Any], view: View) -> Optional[List[int]]:
    """The chosen interrupts: those that there are now, and those of before that have the same handler."""
    if all(arguments[option] is None for option in ("irqs", "names", "pci")):
        return None
    irqs, before = view.resources.irqs, view.granted_before().get("irqs", "")
    known = dict(_numbered(entry) for entry in before.split("\n") if entry)
    numbers = {number for number in known.keys() & set(irqs.numbers()) if irqs.actions(number) == known[number]}
    try:
        numbers |= _matching(arguments, view)
    except IsolationError:
        if not numbers:
            raise
    view.record_grant("irqs", "\n".join(f"{number} {irqs.actions(number)}" for number in sorted(numbers)))
    return sorted(numbers)


def _numbered(entry: str) -> Tuple[int, str]:
    number, _space, handler = entry.partition(" ")
    return int(number), handler


def _matching(arguments: Mapping[str, Any], view: View) -> Set[int]:
    irqs = view.resources.irqs
    numbers: Set[int] = set()
    available = irqs.numbers()
    for number in arguments["irqs"] or []:
        if number not in available:
            raise IsolationError(f"irqs: there is no interrupt {quoted(number)} with an affinity; see /proc/interrupts")
        numbers.add(number)
    for pattern in arguments["names"] or []:
        try:
            found = {n for n in available if any(fnmatch.fnmatchcase(a, pattern) for a in irqs.actions(n).split(","))}
        except re.error as error:  # up to Python 3.10, of a range such as [z-a]
            raise IsolationError(f"names: {quoted(pattern)} is not a pattern: {error}") from None
        if not found:
            raise IsolationError(f"names: no interrupt's handler is named {quoted(pattern)}; see /proc/interrupts")
        numbers |= found
    for address in arguments["pci"] or []:
        # A domain has more than four digits below a controller such as Intel VMD.
        if not re.match(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]\Z", address):
            raise IsolationError(f"pci: {quoted(address)} is not a PCI address such as 0000:01:00.0")
        of_device = irqs.of_pci(address)
        if of_device is None:
            raise IsolationError(f"pci: there is no PCI device {address}; see lspci -D")
        numbers.update(set(of_device) & set(available))
    return numbers


def _move(view: View, number: int, operation: str, cpus: CpuSet) -> None:
    address = Address(AFFINITY, str(number))
    _record_if_requested_under_default(view, address)
    wanted = _changed(view, address, operation, cpus)
    if wanted != view.actual(address):
        reason = f"managed by the kernel ({view.resources.irqs.actions(number) or 'no handler'})"
        # An interrupt that is in the journal for this need not be tried again.
        if view.journal.permanent_skips.get(address) == reason or view.resources.irqs.immovable(number):
            view.skips.add(address, reason, permanent=True)
            return
    view.assign(address, wanted)


def _record_if_requested_under_default(view: View, address: Address) -> None:
    """Record that an interrupt that was requested under a narrowed default gets the default's baseline."""
    wide = view.journal.baseline.get(NEW_INTERRUPTS)
    known = any(address in claim.holds for claim in view.journal.claims.values())
    if wide is not None and not known and view.actual(address) == view.actual(NEW_INTERRUPTS) != wide:
        view.recorded[address] = wide


def _changed(view: View, address: Address, operation: str, cpus: CpuSet) -> str:
    now = view.cpus(address)
    if operation == "set":
        return format_list(cpus)
    if operation == "add":
        return format_list(now | cpus)
    topology, masked = view.resources.topology, view.shared(Masked).cpus
    left, others = now - cpus, topology.present() - masked
    if left & topology.online():
        return format_list(left)
    if not others & topology.online():
        raise IsolationError(f"cpus: {format_list(masked)} are all CPUs of this host; interrupts need one")
    return format_list(others)


def _ban(view: View, operation: str, cpus: CpuSet) -> None:
    process = view.resources.irqbalance.running()
    if process is None:
        number = view.resources.irqbalance.nameless()
        if number is not None:
            reason = f"irqbalance (process {number}) has no socket in {SOCKETS}: it may move interrupts back"
            view.skips.add(Address(BANNED), reason)
        return
    address = Address(BANNED, process)
    if view.actual(address) in (None, NO_ANSWER):
        view.skips.add(address, "irqbalance does not answer on its socket: it may move interrupts back")
        return
    banned = view.cpus(address)
    others = view.resources.topology.present() - cpus
    view.assign(address, format_list({"mask": banned | cpus, "add": banned - cpus, "set": others}[operation]))


STEP = IrqAffinity()
