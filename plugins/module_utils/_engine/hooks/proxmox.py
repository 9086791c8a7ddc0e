# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What a hookscript of Proxmox VE knows: the configurations of the virtual machines, and which of them run."""

from __future__ import annotations

from typing import Dict, List

from ..errors import IsolationError
from ..kernel.host import Host
from ..kernel.proxmox import ProxmoxVms, check_id
from ..paths import PROXMOX
from ..text.domain import Domain
from ..text.proxmox_config import domain_of, is_ours
from .events import Platform


class Proxmox(Platform):
    """Proxmox VE."""

    created_by = "proxmox"
    paths = PROXMOX

    def __init__(self, host: Host) -> None:
        self._vms = ProxmoxVms(host)

    def check_name(self, name: str) -> None:
        """Raise ValueError if no virtual machine can have this ID."""
        check_id(name)

    def domain(self, name: str) -> Domain:
        """The virtual machine that starts. Raises IsolationError."""
        config = self._vms.config(name)
        if config is None:
            raise IsolationError(f"there is no VM {name} on this host")
        return domain_of(config, name)

    def processes(self) -> Dict[str, int]:
        """The QEMU processes of the virtual machines that run, by ID."""
        return self._vms.processes()

    def unseen(self) -> List[str]:
        """Virtual machines without our hookscript, if they can start: templates cannot."""
        return [
            f"VM {name}"
            for name, config in self._vms.configs().items()
            if not config.is_template and not is_ours(config.hookscript)
        ]
