# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""irqbalance: the CPUs that it keeps interrupts off, told over its socket, without a restart.

Without a ban it moves interrupts back within seconds. Source: irqbalance(1), and its sock_handle().
"""

from __future__ import annotations

import os
import re
import struct
import time
from typing import Optional

from ..errors import Refused
from ..text.cpus import format_list, parse_mask
from .host import Host
from .kind import Kind
from .task import start_time

SOCKETS = "/run/irqbalance"
SENT = "/run/vfio-isolation/irqbalance-sent"
# irqbalance takes a ban at its next scan (every 10 s) and shows the old one until then.
LAG = 25.0
NO_ANSWER = "?"


class Irqbalance(Kind):
    """`irqbalance.banned:PID:START`: the banned CPUs of one irqbalance process; gone when that process ends."""

    family = "irq"
    volatile = True
    best_effort = True

    def __init__(self, host: Host) -> None:
        self._host = host

    def running(self) -> Optional[str]:
        """The `PID:START` of the irqbalance that listens here."""
        # Older ones listen on an abstract socket of that name.
        abstract = re.findall(r"@(irqbalance\d+\.sock)$", self._host.read("/proc/net/unix") or "", re.MULTILINE)
        for name in self._host.list(SOCKETS) + abstract:
            match = re.match(r"irqbalance(\d+)\.sock\Z", name)
            start = start_time(self._host, int(match.group(1))) if match else None
            if match and start is not None:
                return f"{match.group(1)}:{start}"
        return None

    def read(self, name: str) -> Optional[str]:
        """The banned CPUs; None where that process has ended."""
        if self.running() != name:
            return None
        process, _space, rest = (self._host.read(SENT) or "").partition(" ")
        cpus, _space, at = rest.partition(" ")
        if process == name and re.match(r"[0-9.]+$", at) and 0 <= time.monotonic() - float(at) < LAG:
            return cpus.strip("-")
        try:
            answer = self._ask(name, "setup")
        except Refused:
            return NO_ANSWER
        match = re.search(r"BANNED ([0-9a-f,]+)", answer)
        return format_list(parse_mask(match.group(1))) if match else NO_ANSWER

    def write(self, name: str, value: str) -> None:
        """Ban these CPUs and no others; NULL is irqbalance's word for what its own configuration says."""
        self._ask(name, f"settings cpus {value or 'NULL'}")
        self._host.note_write(f"irqbalance bans {value}")
        self._host.save(SENT, f"{name} {value or '-'} {time.monotonic()}\n", 0o600)

    def _ask(self, name: str, message: str) -> str:
        path = self.where(name)
        credentials = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
        import socket  # few hosts have it running, and none at every run

        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(20)
            try:
                there = self._host.exists(path)
                connection.connect(self._host.path(path) if there else "\0" + os.path.basename(path))
                ancillary = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)]
                connection.sendmsg([message.encode()], ancillary)
                return connection.recv(65536).decode(errors="replace") if message == "setup" else ""
            except OSError as error:
                raise Refused.of(error, path, message) from error

    def where(self, name: str) -> str:
        """Its socket."""
        return f"{SOCKETS}/irqbalance{name.split(':')[0]}.sock"

    def valid_name(self, name: str) -> bool:
        """Process id and start time."""
        process, _colon, start = name.partition(":")
        return process.isdigit() and start.isdigit()
