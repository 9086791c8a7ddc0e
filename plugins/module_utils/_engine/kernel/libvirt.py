# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The domains that libvirt knows on this host, read from its files: libvirt is never called.

Source: libvirt, qemu driver: persistent domains are in /etc/libvirt/qemu, running ones in /run/libvirt/qemu;
virSystemdHasMachined: it uses systemd-machined if D-Bus can start it.
"""

from __future__ import annotations

import os
from typing import Optional, Set, Tuple

from ..errors import IsolationError
from ..text.cpus import CpuSet, is_number
from ..text.domain import PIN_EMULATOR, PIN_VCPUS, Domain
from ..text.domain_xml import parse
from .host import SELINUX, Host
from .own_files import TEMPORARY_SUFFIX

# Where D-Bus finds what it can start, see dbus-daemon(1).
SERVICES = [f"{directory}/dbus-1/system-services" for directory in ("/etc", "/run", "/usr/local/share", "/usr/share")]
MACHINED = "org.freedesktop.machine1.service"
RUNNING = "/run/libvirt/qemu"
DIRECTORIES = ("/etc/libvirt/qemu", RUNNING)
# Of a file's name, without the suffix of its new version.
LONGEST = 255 - len(f".json{TEMPORARY_SUFFIX}")
EMULATOR = "emulator"


def check_name(name: str) -> str:
    """A domain's name that may be part of a path. Raises ValueError."""
    # What is printable can also be encoded.
    if name in ("", ".", "..") or "/" in name or not name.isprintable() or len(os.fsencode(name)) > LONGEST:
        raise ValueError(f"{name[:40]!r} is not the name of a libvirt domain")
    return name


def confines_hooks(host: Host) -> bool:
    """Whether SELinux is enforcing, and has a boolean for unconfined hooks that is off. See booleans(8)."""
    boolean = host.read(f"{SELINUX}/booleans/virt_hooks_unconfined") or ""  # its value now, and the one to come
    return host.read(f"{SELINUX}/enforce") == "1" and boolean.split()[:1] == ["0"]


class Domains:
    """The domains of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def names(self) -> Tuple[str, ...]:
        """Every domain, by its name."""
        files = {name for directory in DIRECTORIES for name in self._host.list(directory)}
        return tuple(sorted(name[: -len(".xml")] for name in files if name.endswith(".xml")))

    def read(self, name: str) -> Domain:
        """A domain: as it will start, or as it runs if it is not persistent. Raises ValueError."""
        check_name(name)
        for directory in DIRECTORIES:
            text = self._host.read(f"{directory}/{name}.xml")
            if text:
                try:
                    return parse(text.encode())
                except IsolationError as error:
                    raise ValueError(f"{directory}/{name}.xml: {error}") from None
        raise ValueError(f"there is no libvirt domain {name!r}; there are {', '.join(self.names()) or 'none'}")

    def has_machined(self) -> bool:
        """Whether libvirt has systemd-machined make the cgroups of domains."""
        found = any(self._host.exists(f"{directory}/{MACHINED}") for directory in SERVICES)
        return found and self._host.exists("/run/systemd/system")

    def running(self) -> Set[str]:
        """The domains that run, by their names."""
        return {name[: -len(".pid")] for name in self._host.list(RUNNING) if name.endswith(".pid")}

    def process(self, name: str) -> Optional[int]:
        """The QEMU process of a domain; None if it does not run."""
        text = (self._host.read(f"{RUNNING}/{check_name(name)}.pid") or "").strip()
        return int(text) if is_number(text) else None

    def cpus(self, name: str, part: str) -> CpuSet:
        """The CPUs that a domain's vCPUs, or its emulator and I/O threads, are pinned to. Raises ValueError."""
        domain = self.read(name)
        cpus, what, pin = domain.vcpus, "vCPUs run", PIN_VCPUS
        if part == EMULATOR:
            cpus, what, pin = domain.emulator, "emulator runs", PIN_EMULATOR
        if not cpus:
            raise ValueError(f"the domain {name!r} does not say where its {what}; add {pin} (virsh edit {name})")
        return cpus
