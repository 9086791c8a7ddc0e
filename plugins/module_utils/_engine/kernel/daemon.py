# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Speaks to a daemon over its socket."""

from __future__ import annotations

import os
import socket
import struct


def converse(address: str, message: str, answers: bool) -> str:
    """Send a message with our credentials, and return the answer; an empty one unless `answers`. Raises OSError."""
    credentials = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(address)
        connection.sendmsg([message.encode()], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])
        return connection.recv(65536).decode(errors="replace") if answers else ""
