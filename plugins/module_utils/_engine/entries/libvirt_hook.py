# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The entry point of libvirt's hook for QEMU: which events concern us, the time limit, the log, the exit code.

libvirt is never called from here: it waits for the hook. Standard output stays empty: migrate and restore take it as
the domain's XML. What happens goes to syslog, and why a domain may not start to standard error, which libvirt shows.
Source: libvirt, Hooks for specific system management.
"""

from __future__ import annotations

# Every VM of the host waits for this: what is not needed for a domain without isolation is imported further down.
import os
import sys

from ..errors import TimeLimit, sentence_of
from ..kernel.presence import any_exists
from ..paths import DEFAULT, EVENTS_LOCK, TIMEOUT, domain_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence

    from ..libvirt.events import Event

# start comes too late and stopped too early; reconnect and attach are for a running VM; migrate, restore filter XML.
ACTING = {("prepare", "begin"), ("started", "begin"), ("release", "end")}


def main(arguments: Sequence[str], root: str = "") -> int:
    """The hook's entry point: DOMAIN OPERATION SUB-OPERATION EXTRA. Returns 0, or 1 if the domain may not start."""
    name, operation, sub = (*arguments, "", "", "")[:3]
    if (operation, sub) not in ACTING:
        return 0
    # A domain without a configuration is left alone. Without the lock no domain has a claim, and one that gets a claim
    # later will see this domain.
    if not any_exists(root, (domain_file(name), DEFAULT, EVENTS_LOCK)):
        return 0
    import signal

    event = None
    try:
        try:
            from ..kernel.host import Host
            from ..libvirt.events import Event

            event = Event(name, operation, Host(root), sys.stdin.buffer)
            _be_done_within(signal, TIMEOUT, event)
            event.configure()
            _be_done_within(signal, event.timeout, event)
            for line in event.carry_out():
                _log(f"{name!r}: {operation}: {line}")
        finally:
            signal.alarm(0)
    except Exception as error:  # whatever it is: only the configuration decides whether the domain may start
        signal.alarm(0)
        is_configured = any_exists(root, (domain_file(name), DEFAULT))
        required = event.required if event else operation == "prepare" and is_configured
        return _failed(f"{name!r}: {operation}: {sentence_of(error)}", required)
    return 0


def _failed(sentence: str, required: bool) -> int:
    """Say why. Returns the exit code."""
    _log(sentence, failed=True)
    if not required:
        return 0
    sys.stderr.write(f"vfio-isolation: {_printable(sentence)}\n")
    sys.stderr.flush()
    return 1


def _be_done_within(signal: Any, seconds: int, event: Event) -> None:
    """Fail after so many seconds. Rolling back may take as long again, then this ends: the journal has the rest."""

    def expired(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGALRM, end)
        signal.alarm(seconds)
        raise TimeLimit(f"this took more than {seconds} s; raise the option timeout to allow more")

    def end(_number: int, _frame: object) -> None:
        # Whether the domain may start is a matter of its configuration still.
        sentence = (
            f"{event.name!r}: {event.operation}: rolling back took more than {seconds} s, too, and is not complete"
        )
        os._exit(_failed(sentence, event.required))

    signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)


def _log(line: str, failed: bool = False) -> None:
    import syslog

    syslog.openlog("vfio-isolation", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_ERR if failed else syslog.LOG_INFO, _printable(line))


def _printable(line: str) -> str:
    """One line, whatever a file has brought into it: for syslog(3) a NUL ends it, and a newline forges another."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
