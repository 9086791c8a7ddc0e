# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ending a process surely, and never another one that got its number."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def is_running(pid_file: Path) -> bool:
    """Say whether the process that wrote `pid_file` still runs."""
    with _opened(pid_file) as process:
        return process is not None and not _ended(process, seconds=0)


def end(pid_file: Path) -> None:
    """End the process that wrote `pid_file`, if it still runs, and wait until it has gone."""
    with _opened(pid_file) as process:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process is not None and not _ended(process, seconds=0):
                signal.pidfd_send_signal(process, number)
                _ended(process, seconds=10)


@contextmanager
def _opened(pid_file: Path) -> Iterator[int | None]:
    """Open the process whose number is in `pid_file` and whose command line names that file, if there is one.

    The descriptor stays with that one process (pidfd_open(2)): there is no moment for another to take its place.
    """
    process = None
    arguments: list[bytes] = []
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        process = os.pidfd_open(pid)
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        pass  # never started, ended, or ended before it wrote the file
    try:
        yield process if os.fsencode(pid_file) in arguments else None
    finally:
        if process is not None:
            os.close(process)


def _ended(process: int, *, seconds: float) -> bool:
    """Wait for the end of a process: its descriptor becomes readable then."""
    return bool(select.select([process], [], [], seconds)[0])


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for the end of the block, so that it is done whole."""
    if threading.current_thread() is not threading.main_thread():
        yield  # a signal interrupts the main thread only
        return
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in received:
            signal.raise_signal(late)
