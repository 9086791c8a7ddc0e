# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The entry point of libvirt's hook for QEMU: which of its events concern us.

libvirt is never called from here: it waits for the hook. Standard output stays empty: migrate and restore take it as
the domain's XML. Source: libvirt, Hooks for specific system management.
"""

from __future__ import annotations

import os
import sys

from ..hooks.one_event import carry_out, concerns, is_configured
from ..paths import LIBVIRT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

    from ..hooks.events import Event

# start comes too late and stopped too early; reconnect and attach are for a running VM; migrate, restore filter XML.
ACTING = {("prepare", "begin"), ("started", "begin"), ("release", "end")}


def main(arguments: Sequence[str], root: str = "") -> int:
    """The hook's entry point: DOMAIN OPERATION SUB-OPERATION EXTRA. Returns 0, or 1 if the domain may not start."""
    name, operation, sub = (*arguments, "", "", "")[:3]
    if (operation, sub) not in ACTING or not concerns(name, LIBVIRT, root):
        return 0
    # A user's own libvirt (qemu:///session) runs this hook, too, and is not to be kept from starting anything.
    if not root and os.geteuid() != 0:
        return 0

    def begin() -> Event:
        from ..hooks.events import Event
        from ..hooks.libvirt import Libvirt
        from ..kernel.host import Host

        host = Host(root)
        return Event(name, operation, host, Libvirt(host, sys.stdin.buffer))

    title = f"{name!r}: {operation}"
    return carry_out(title, operation == "prepare", lambda: is_configured(name, LIBVIRT, root), begin)
