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
# Held during each event of libvirt; it exists if a domain has had a claim since boot.
EVENTS_LOCK = f"{RUN}/libvirt.lock"
IRQBALANCE_SENT = f"{RUN}/irqbalance-sent"  # the last ban, which irqbalance does not show at once
RELOAD_DUE = f"{RUN}/daemon-reload-due"  # units whose drop-ins were removed
CODE = f"{RUN}/code"  # what Ansible's modules have compiled, for as long as there is a claim
LISTS_TO_WRITE_BACK = f"{RUN}/lists-to-write-back"  # of cgroups whose controller is switched off for a moment

# What is configured without Ansible.
ROOT = "/etc/vfio-isolation"
CLAIMS = f"{ROOT}/claims"  # those that are applied at boot
LIBVIRT = f"{ROOT}/libvirt"
DOMAINS = f"{LIBVIRT}/domains"
DEFAULT = f"{LIBVIRT}/default.json"  # of all domains that have no file of their own

# What is installed.
RUNNER = "/usr/local/lib/vfio-isolation"
HOOK = "/etc/libvirt/hooks/qemu.d/vfio-isolation"
UNIT = "/etc/systemd/system/vfio-isolation@.service"

TIMEOUT = 60  # seconds that isolating for a domain may take, unless configured otherwise


def domain_file(name: str) -> str:
    """The configuration file of a domain."""
    return f"{DOMAINS}/{name}.json"
