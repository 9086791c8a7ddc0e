# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Where the host keeps what is configured without Ansible. It imports nothing: every VM of the host waits for it."""

from __future__ import annotations

ROOT = "/etc/vfio-isolation"
CLAIMS = f"{ROOT}/claims"  # those that come back at boot
LIBVIRT = f"{ROOT}/libvirt"
DOMAINS = f"{LIBVIRT}/domains"
DEFAULT = f"{LIBVIRT}/default.json"  # of all domains that have no file of their own
# Held by each event of libvirt; it is there once a domain has had a claim since boot.
EVENTS_LOCK = "/run/vfio-isolation/libvirt.lock"
TIMEOUT = 60  # seconds that isolating for a domain may take, unless it is configured


def domain_file(name: str) -> str:
    """The configuration file of a domain."""
    return f"{DOMAINS}/{name}.json"
