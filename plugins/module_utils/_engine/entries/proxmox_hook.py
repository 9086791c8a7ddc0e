# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The entry point of the hookscript of Proxmox VE, and of the unit that watches a virtual machine.

Proxmox VE calls no hookscript if QEMU does not start after pre-start, if a virtual machine has been migrated away, or
if the daemon that reports its end is dead. So each start leaves a unit behind that waits for the end of QEMU.
Source: qm(1), Hookscripts; PVE::GuestHelpers, exec_hookscript; PVE::QemuServer, vm_start_nolock.
"""

from __future__ import annotations

import os
import sys
import time

from ..errors import sentence_of
from ..hooks.one_event import carry_out, concerns, is_configured, log
from ..paths import JOURNAL, PROXMOX, RUNNER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

    from ..hooks.events import Event

# By the phases of a hookscript. The other two are for virtual machines that run.
ACTING = {"pre-start": "prepare", "post-stop": "release"}
# Of the unit. If Proxmox VE does not hold the lock that is known here, nobody can tell when the start is over.
WATCH, WATCH_UNLOCKED = "watch", "watch-unlocked"
LONGEST_START = 600.0  # seconds, if it is not locked
GRACE = 5.0  # seconds that Proxmox VE has for its own end of a virtual machine, with post-stop


def main(arguments: Sequence[str], root: str = "") -> int:
    """The entry point: VMID PHASE. Returns 0, or 1 if the virtual machine may not start."""
    name, phase = (*arguments, "", "")[:2]
    if phase in (WATCH, WATCH_UNLOCKED):
        return _watch(name, root, 0.0 if phase == WATCH else LONGEST_START)
    if phase not in ACTING or not concerns(name, PROXMOX, root):
        return 0
    if phase == "pre-start" and is_configured(name, PROXMOX, root):
        _be_watched(name, root)  # first: what kills this may leave a claim behind
    return _happens(name, phase, root)


def _happens(name: str, phase: str, root: str) -> int:
    def begin() -> Event:
        from ..hooks.events import Event
        from ..hooks.proxmox import Proxmox
        from ..kernel.host import Host

        host = Host(root)
        return Event(name, ACTING.get(phase, "release"), host, Proxmox(host))

    return carry_out(f"VM {name}: {phase}", phase == "pre-start", lambda: is_configured(name, PROXMOX, root), begin)


def _be_watched(name: str, root: str) -> None:
    """Start the unit that watches a virtual machine. It waits for the lock that Proxmox VE holds meanwhile."""
    try:
        from ..kernel.host import Host
        from ..kernel.proxmox import ProxmoxVms

        host = Host(root)
        phase = WATCH if ProxmoxVms(host).is_locked(name) else WATCH_UNLOCKED
        unit = f"--unit=vfio-isolation-vm-{name}-{os.getpid()}"
        command = [sys.executable, "-I", "-S", RUNNER, "proxmox_hook", name, phase]
        host.change("systemd-run", "--quiet", "--collect", "--slice=system.slice", unit, "--", *command)
    except Exception as error:  # whatever it is: whether it may start is another matter
        why = f"the unit that watches it cannot be started: {sentence_of(error)}"
        log(f"VM {name}: if it does not start, revert its claim, as {why}", failed=True)


def _watch(name: str, root: str, longest_start: float) -> int:
    """Wait until a virtual machine has started and has ended, and revert its claim if nobody else has."""
    from ..kernel.host import Host
    from ..kernel.proxmox import ProxmoxVms

    host = Host(root)
    vms, deadline = ProxmoxVms(host), time.monotonic() + longest_start
    with vms.locked(name):  # until the start has succeeded or failed
        process = vms.process(name)
    while not process and time.monotonic() < deadline:
        time.sleep(1)
        process = vms.process(name)
    if process:
        vms.wait_for_end(process)
        time.sleep(GRACE)
    with vms.locked(name):  # until post-stop is through; the next start waits for this
        # What runs again is watched anew. Mostly, post-stop has reverted the claim, and nothing need wait for events.
        if vms.process(name) or f'"{name}"' not in (host.read(JOURNAL) or ""):
            return 0
        return _happens(name, WATCH, root)
