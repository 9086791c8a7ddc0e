# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for another process that does the same, and saying so."""

from __future__ import annotations

import fcntl

from .console import say


def lock(descriptor: int, *, holder: str) -> None:
    """Take the lock of an open file or directory; `holder` names for a person what may have it now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for {holder}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
