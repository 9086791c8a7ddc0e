# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What the hooks have in common: the time limit of an event, its log, and its exit code.

What happens goes to syslog, and why a virtual machine may not start to standard error, which whoever starts it shows.
"""

from __future__ import annotations

# Every VM of a host waits for this: what is not needed for one without isolation is imported further down.
import os
import sys

from ..errors import TimeLimit, sentence_of
from ..kernel.presence import any_exists
from ..paths import TIMEOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from ..paths import HookPaths
    from .events import Event


def concerns(name: str, paths: HookPaths, root: str) -> bool:
    """Whether anything may have to be done at an event.

    A virtual machine without a configuration is left alone. Without the lock none has a claim, and one that gets one
    later will see this virtual machine.
    """
    return any_exists(root, (paths.file(name), paths.default, paths.lock))


def is_configured(name: str, paths: HookPaths, root: str) -> bool:
    """Whether there is a configuration for a virtual machine."""
    return any_exists(root, (paths.file(name), paths.default))


def carry_out(title: str, is_start: bool, has_configuration: Callable[[], bool], begin: Callable[[], Event]) -> int:
    """Carry out an event. Returns the exit code: 0, or 1 if the virtual machine may not start.

    `title` says in the log which event it is. `has_configuration` counts if the event cannot even `begin`.
    """
    import signal

    event = None
    try:
        try:
            event = begin()
            _be_done_within(signal, TIMEOUT, title, event)
            event.configure()
            _be_done_within(signal, event.timeout, title, event)
            for line in event.carry_out():
                log(f"{title}: {line}")
        finally:
            signal.alarm(0)
    except Exception as error:  # whatever it is: only the configuration decides whether it may start
        signal.alarm(0)
        required = event.required if event else is_start and has_configuration()
        return failed(f"{title}: {sentence_of(error)}", required)
    return 0


def failed(sentence: str, required: bool) -> int:
    """Say why. Returns the exit code."""
    log(sentence, failed=True)
    if not required:
        return 0
    sys.stderr.write(f"vfio-isolation: {_printable(sentence)}\n")
    sys.stderr.flush()
    return 1


def _be_done_within(signal: Any, seconds: int, title: str, event: Event) -> None:
    """Fail after so many seconds. Rolling back may take as long again, then this ends: the journal has the rest."""

    def expired(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGALRM, end)
        signal.alarm(seconds)
        advice = (
            "revert its claim by hand" if event.operation == "release" else "raise the option timeout to allow more"
        )
        raise TimeLimit(f"this took more than {seconds} s; {advice}")

    def end(_number: int, _frame: object) -> None:
        # Whether it may start is a matter of its configuration still.
        sentence = f"{title}: rolling back took more than {seconds} s, too, and is not complete"
        os._exit(failed(sentence, event.required))

    signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)


def log(line: str, failed: bool = False) -> None:
    """Write a line to syslog, where the systemd journal has it."""
    import syslog

    syslog.openlog("vfio-isolation", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_ERR if failed else syslog.LOG_INFO, _printable(line))


def _printable(line: str) -> str:
    """One line, whatever a file has brought into it: for syslog(3) a NUL ends it, and a newline forges another."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
