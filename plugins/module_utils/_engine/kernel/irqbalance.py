# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""irqbalance: the CPUs that it keeps interrupts off, set through its socket, without a restart.

Without a ban it moves interrupts back within seconds. Source: irqbalance(1), and its sock_handle().
"""

from __future__ import annotations

import re
import time
from typing import Optional, Tuple

from ..errors import IsolationError, Refused
from ..paths import IRQBALANCE_SENT
from ..text.cpus import format_list, is_number, parse_list, parse_mask
from .host import Host
from .kind import Kind
from .task import TaskId, identify

# The name of the kind.
BANNED = "irqbalance.banned"
SOCKETS = "/run/irqbalance"
# irqbalance applies a ban at its next scan (every 10 s) and shows the old one until then.
LAG = 25.0
NO_ANSWER = "?"


class Irqbalance(Kind):
    """`irqbalance.banned:PID:START`: the banned CPUs of one irqbalance process; gone once that process ends."""

    family = "irq"
    volatile = True
    best_effort = True

    def __init__(self, host: Host) -> None:
        self._host = host
        self._nameless: Optional[Tuple[int, ...]] = None  # what was found, once that was looked for

    def running(self) -> Optional[str]:
        """The `PID:START` of the irqbalance that listens here."""
        # Older ones listen on an abstract socket of that name.
        abstract = re.findall(r"@(irqbalance[0-9]+\.sock)$", self._host.read("/proc/net/unix") or "", re.MULTILINE)
        for name in self._host.list(SOCKETS) + abstract:
            match = re.match(r"irqbalance([0-9]{1,18})\.sock\Z", name)
            process = identify(self._host, int(match.group(1))) if match else None
            if process is not None:
                return str(process)
        return None

    def nameless(self) -> Optional[int]:
        """The number of an irqbalance process that nobody can ask, if `running` knows of none.

        Without /run/irqbalance, it binds a name that is all NUL bytes; in a container, /run may be its own.
        """
        if self._nameless is None:  # each claim asks, and a host has many processes
            numbers = sorted(int(name) for name in self._host.list("/proc") if is_number(name))
            named = ((n, self._host.read(f"/proc/{n}/comm") or "") for n in numbers)
            self._nameless = next(((n,) for n, name in named if name.strip() == "irqbalance"), ())
        return self._nameless[0] if self._nameless else None

    def read(self, name: str) -> Optional[str]:
        """The banned CPUs; None if that process has ended, NO_ANSWER if it does not answer."""
        if self.running() != name:
            return None
        sent = self._just_sent(name)
        if sent is not None:
            return sent
        try:
            answer = self._host.converse(self.where(name), "setup")
        except Refused:
            return NO_ANSWER
        match = re.search(r"BANNED ([0-9a-f,]+)", answer)
        try:
            return format_list(parse_mask(match.group(1))) if match else NO_ANSWER
        except ValueError:
            return NO_ANSWER

    def _just_sent(self, name: str) -> Optional[str]:
        """The ban that irqbalance does not show yet; None if there is none, or if the note of it cannot be trusted."""
        try:
            note = re.match(r"(\S+) ([0-9,-]+) ([0-9]{1,12}\.[0-9]+)\s*\Z", self._host.read_own(IRQBALANCE_SENT) or "")
            if note and note.group(1) == name and 0 <= time.monotonic() - float(note.group(3)) < LAG:
                return format_list(parse_list(note.group(2).strip("-")))
        except (IsolationError, ValueError):
            pass
        return None

    def write(self, name: str, value: str) -> None:
        """Ban these CPUs and no others; NULL makes irqbalance use its own configuration.

        The space ends the list: irqbalance 1.7 does not end what it has read, and takes no list with garbage behind it.
        """
        self._host.converse(self.where(name), f"settings cpus {value or 'NULL'} ", answers=False)
        self._host.note_write(f"irqbalance bans {value}")
        self._host.save(IRQBALANCE_SENT, f"{name} {value or '-'} {time.monotonic():.6f}\n", 0o600)

    def where(self, name: str) -> str:
        """Its socket."""
        return f"{SOCKETS}/irqbalance{name.split(':')[0]}.sock"

    def valid_name(self, name: str) -> bool:
        """Process id and start time."""
        return TaskId.parse(name) is not None
