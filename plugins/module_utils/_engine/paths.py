# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Every path of a host that is ours. It imports nothing: the hook needs some of them, and every VM waits for it."""

from __future__ import annotations

# A reboot removes it, and resets the kernel's settings.
RUN = "/run/vfio-isolation"
JOURNAL = f"{RUN}/journal.json"
LOCK = f"{RUN}/lock"
IRQBALANCE_SENT = f"{RUN}/irqbalance-sent"  # the last ban, which irqbalance does not show at once
RELOAD_DUE = f"{RUN}/daemon-reload-due"  # units whose drop-ins were removed
CODE = f"{RUN}/code"  # what Ansible's modules have compiled, for as long as there is a claim
LISTS_TO_WRITE_BACK = f"{RUN}/lists-to-write-back"  # of cgroups whose controller is switched off for a moment

# What is configured without Ansible.
ROOT = "/etc/vfio-isolation"
CLAIMS = f"{ROOT}/claims"  # those that are applied at boot

# What is installed.
RUNNER = "/usr/local/lib/vfio-isolation"
HOOK = "/etc/libvirt/hooks/qemu.d/vfio-isolation"
SNIPPET = "vfio-isolation"  # the hookscript of Proxmox VE, on a storage
UNIT = "/etc/systemd/system/vfio-isolation@.service"

TIMEOUT = 60  # seconds that isolating for a virtual machine may take, unless configured otherwise


class HookPaths:
    """Where the hook of one platform has its files."""

    def __init__(self, platform: str, machines: str) -> None:
        # Held during each event; it exists if a virtual machine has had a claim since boot.
        self.lock = f"{RUN}/{platform}.lock"
        self.configuration = f"{ROOT}/{platform}"
        self.machines = f"{self.configuration}/{machines}"
        self.default = f"{self.configuration}/default.json"  # of all that have no file of their own

    def file(self, name: str) -> str:
        """The configuration file of a virtual machine."""
        return f"{self.machines}/{name}.json"


LIBVIRT = HookPaths("libvirt", "domains")
PROXMOX = HookPaths("proxmox", "vms")
HOOKSCRIPT = f"{PROXMOX.configuration}/hookscript.json"  # on which storage it is installed, and where that is
