# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Names of systemd units."""

from __future__ import annotations

import os

_KEPT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.")


def escape(name: str) -> str:
    """A name escaped for use in a unit name, byte by byte, as systemd-escape(1) does it: `/` becomes `-`."""
    escaped = ""
    for byte in os.fsencode(name):
        if byte == ord("/"):
            escaped += "-"
        elif byte in _KEPT and (byte != ord(".") or escaped):
            escaped += chr(byte)
        else:
            escaped += f"\\x{byte:02x}"
    return escaped
