# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Waits for the end of a process that is not a child, see pidfd_open(2)."""

from __future__ import annotations

import os
import select
import time

POLL = 1.0  # seconds


def wait_for_end(process: int) -> None:
    """Return when a process has ended, or at once if there is none."""
    try:
        descriptor = vars(os)["pidfd_open"](process)  # Python has it since 3.9, Linux since 5.3
    except ProcessLookupError:
        return
    except (KeyError, OSError):
        while os.path.exists(f"/proc/{process}"):
            time.sleep(POLL)
        return
    select.select([descriptor], [], [])
    os.close(descriptor)
