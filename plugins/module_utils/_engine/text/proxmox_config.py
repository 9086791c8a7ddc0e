# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What of a Proxmox VE virtual machine's configuration matters here: its affinity and its hookscript.

Source: qm.conf(5); PVE::QemuServer, parse_vm_config; PVE::CpuSet, parse_cpuset.
"""

from __future__ import annotations

import re
from typing import Dict, NamedTuple

from ..errors import IsolationError, quoted
from ..paths import SNIPPET
from .cpus import NONE, parse_list, to_bits
from .domain import Domain, Thread, Words

# Where Proxmox VE runs virtual machines.
CGROUP = "/qemu.slice"
PROXMOX = Words(
    "VM {name}",
    "affinity",
    "affinity",
    "qm set {name} --affinity 4-7",
    "give all virtual machines of this host claims of the same strategy",
)


class Config(NamedTuple):
    """The part of a configuration that is about the virtual machine as it starts."""

    affinity: str  # the CPUs of all threads of QEMU; empty if it has none
    hookscript: str  # its volume, such as local:snippets/vfio-isolation
    is_template: bool


def parse(text: str) -> Config:
    """Read a virtual machine's configuration."""
    values: Dict[str, str] = {}
    for line in text.split("\n"):
        # What is pending, cloud-init's state, and each snapshot begin with a section.
        if re.match(r"\[.*\]\s*\Z", line):
            break
        option = re.match(r"([a-z][a-z_-]*[0-9]*):\s*(\S.*?)\s*\Z", line)
        if option:
            values[option[1]] = option[2]
    is_template = values.get("template", "").lower() in ("1", "on", "yes", "true")
    return Config(values.get("affinity", ""), values.get("hookscript", ""), is_template)


def is_ours(hookscript: str) -> bool:
    """Whether this is our hookscript, on whichever storage."""
    return hookscript.endswith(f":snippets/{SNIPPET}")


def domain_of(config: Config, name: str) -> Domain:
    """The virtual machine: Proxmox VE gives all of its threads the same affinity. Raises IsolationError."""
    affinity = ",".join(part.strip() for part in config.affinity.split(",")).rstrip(",")
    try:
        cpus = parse_list(affinity) if affinity else NONE
    except ValueError as error:
        raise IsolationError(f"VM {name} has the affinity {quoted(config.affinity)}: {error}") from None
    qemu = Thread("QEMU process", to_bits(cpus), "affinity")
    return Domain(name, cpus, cpus, CGROUP, threads=(qemu,), words=PROXMOX)
