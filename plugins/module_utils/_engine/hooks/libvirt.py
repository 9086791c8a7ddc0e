# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What a hook of libvirt knows: the XML of the domain that starts, and which domains run."""

from __future__ import annotations

from typing import BinaryIO, Dict, List

from ..errors import IsolationError
from ..kernel.host import Host
from ..kernel.libvirt import Domains, check_name
from ..paths import LIBVIRT
from ..text.domain import Domain
from ..text.domain_xml import LIMIT, parse
from .events import Platform


class Libvirt(Platform):
    """libvirt's QEMU driver."""

    created_by = "libvirt"
    paths = LIBVIRT

    def __init__(self, host: Host, given: BinaryIO) -> None:
        """`given` is standard input, with the domain's XML."""
        self._domains = Domains(host)
        self._given = given

    def check_name(self, name: str) -> None:
        """Raise ValueError if no domain can have this name."""
        check_name(name)

    def domain(self, name: str) -> Domain:
        """The domain on standard input, which can be read once. Raises IsolationError."""
        domain = parse(self._given.read(LIMIT + 1), self._domains.has_machined())
        if domain.name != name:
            raise IsolationError(f"the XML on standard input is that of the domain {domain.name[:40]!r}")
        return domain

    def processes(self) -> Dict[str, int]:
        """The QEMU processes of the domains that run."""
        found = {name: self._domains.process(name) for name in self._domains.running()}
        return {name: process for name, process in found.items() if process}

    def unseen(self) -> List[str]:
        """None: libvirt runs the hook for every domain."""
        return []
