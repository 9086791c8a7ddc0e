# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The virtual machines of a Proxmox VE host, read from its files: in a hook, its commands would wait for the hook.

Source: qm(1), Files; PVE::QemuServer::Helpers for the pid file; PVE::QemuConfig for the lock.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import ContextManager, Dict, Optional

from ..text.cpus import is_number
from ..text.proxmox_config import Config, parse
from .host import Host
from .task import argument

QM = "/usr/sbin/qm"
PVESH = "/usr/bin/pvesh"
CONFIGS = "/etc/pve/qemu-server"
NODES = "/etc/pve/nodes"  # of the cluster, this one among them
RUNNING = "/run/qemu-server"
LOCKS = "/run/lock/qemu-server"
ID = "[1-9][0-9]{2,8}"  # as a regular expression


def check_id(name: str) -> str:
    """The ID of a virtual machine. Raises ValueError."""
    if not re.match(rf"{ID}\Z", name):
        raise ValueError(f"{name[:40]!r} is not the ID of a Proxmox VE virtual machine, a number from 100 to 999999999")
    return name


class ProxmoxVms:
    """The virtual machines of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def config(self, name: str) -> Optional[Config]:
        """The configuration of one that starts; None if there is none with that ID. Raises IsolationError.

        While one is being migrated to this host, its configuration is among those of another.
        """
        found = self._read(CONFIGS, check_id(name))
        for node in self._host.list(NODES) if found is None else ():
            found = found or self._read(f"{NODES}/{node}/qemu-server", name)
        return found

    def configs(self) -> Dict[str, Config]:
        """The configurations of all virtual machines of this host, by ID. Raises IsolationError."""
        names = (re.match(rf"({ID})\.conf\Z", file) for file in self._host.list(CONFIGS))
        found = {name[1]: self._read(CONFIGS, name[1]) for name in names if name}
        return {name: config for name, config in found.items() if config}

    def keeps(self, volume: str) -> bool:
        """Whether a hookscript may still be needed: for a snapshot, or for a virtual machine of another host."""
        own = self._host.list(CONFIGS)
        sections = ((self._host.read(f"{CONFIGS}/{file}") or "").partition("\n[")[2] for file in own)
        elsewhere = (
            self._host.read(f"{NODES}/{node}/qemu-server/{file}") or ""
            for node in self._host.list(NODES)
            for file in self._host.list(f"{NODES}/{node}/qemu-server")
            if file not in own
        )
        return any(f"hookscript: {volume}" in text for text in chain(sections, elsewhere))

    def _read(self, directory: str, name: str) -> Optional[Config]:
        text = self._host.read(f"{directory}/{name}.conf")
        return None if text is None else parse(text)

    def process(self, name: str) -> Optional[int]:
        """The QEMU process of one; None if it does not run."""
        text = (self._host.read(f"{RUNNING}/{name}.pid") or "").strip()
        if not is_number(text):
            return None
        pid_file = argument(self._host, int(text), "-pidfile")
        return int(text) if pid_file.endswith(f"{RUNNING}/{name}.pid") else None

    def processes(self) -> Dict[str, int]:
        """The QEMU processes of those that run, by ID."""
        names = [name[: -len(".pid")] for name in self._host.list(RUNNING) if name.endswith(".pid")]
        found = {name: self.process(name) for name in names}
        return {name: process for name, process in found.items() if process}

    def wait_for_end(self, process: int) -> None:
        """Wait until a process has ended."""
        self._host.wait_for_end(process)

    def locked(self, name: str, timeout: Optional[float] = None) -> ContextManager[None]:
        """Hold the lock that Proxmox VE holds while it starts or stops one. Raises TimeoutError."""
        return self._host.locked(f"{LOCKS}/lock-{check_id(name)}.conf", timeout, create=False)

    def is_locked(self, name: str) -> bool:
        """Whether anybody holds it."""
        try:
            with self.locked(name, timeout=0.0):
                return False
        except TimeoutError:
            return True
