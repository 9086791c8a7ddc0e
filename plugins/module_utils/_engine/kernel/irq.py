# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Interrupt affinities.

Source: Documentation/core-api/irq/irq-affinity.rst; kernel/irq/proc.c for the errors of a write.
"""

from __future__ import annotations

import errno
from typing import Callable, List, Optional

from ..errors import Refused, Skipped
from ..model import Address
from ..text.cpus import format_list, is_number, parse_list
from .host import Host
from .sysfs import CpuList, CpuMask
from .topology import SysfsTopology

IRQ = "/proc/irq"
# The names of the kinds.
AFFINITY = "irq.affinity"
DEFAULT = "irq.default"
NEW_INTERRUPTS = Address(DEFAULT, "")
# What controllers return that cannot set an affinity; the last is the kernel's own ENOTSUPP, which has no name here.
_NO_AFFINITY = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, 524)


class Irqs(CpuList):
    """`irq.affinity:24`: the CPUs that may handle an interrupt (as requested; the effective ones may lag)."""

    volatile = True
    best_effort = True

    def __init__(self, host: Host) -> None:
        super().__init__(host, "irq", "[0-9]{1,18}", lambda name: f"{IRQ}/{name}/smp_affinity_list")

    def exist(self) -> bool:
        """Whether this kernel shows interrupts; some architectures and containers do not."""
        return self._host.exists(IRQ)

    def numbers(self) -> List[int]:
        """Every interrupt that has an affinity."""
        return sorted(int(name) for name in self._host.list(IRQ) if is_number(name))

    def actions(self, number: int) -> str:
        """The names of an interrupt's handlers, comma-separated: `nvme0q1`, `virtio0-input.0`."""
        return self._host.read(f"/sys/kernel/irq/{number}/actions") or ""

    def of_pci(self, address: str) -> Optional[List[int]]:
        """The interrupts of a PCI device such as `0000:01:00.0`; None if there is no such device."""
        device = f"/sys/bus/pci/devices/{address.lower()}"  # as the kernel writes it
        if not self._host.exists(device):
            return None
        vectors = [int(name) for name in self._host.list(f"{device}/msi_irqs") if is_number(name)]
        line = int(self._host.read(f"{device}/irq") or 0)
        return vectors or ([line] if line else [])

    def immovable(self, number: int) -> bool:
        """Whether the kernel would refuse any affinity for this interrupt.

        Newer kernels show it in the file's mode. Older ones only refuse a write, before they look at what is written:
        so this writes a word that is not a CPU list, which is either refused for that reason or changes nothing.
        """
        path = self.where(str(number))
        return not self._host.writable(path) or self._host.probe_errno(path, "?\n") in (errno.EIO, errno.EPERM)

    def write(self, name: str, value: str) -> None:
        """Set the affinity."""
        try:
            super().write(name, value)
        except Refused as refused:
            # EIO and EPERM: managed. ENOENT: freed meanwhile. Others, such as ENOSPC (no free vector), may pass.
            if refused.code in (errno.EIO, errno.EPERM) or self._is_refused_always(name, refused.code):
                raise Skipped(str(refused), permanent=True) from refused
            if refused.code == errno.ENOENT:
                raise Skipped(str(refused)) from refused
            reason = self._why_offline(value)
            if refused.code == errno.EINVAL and reason:
                super().write(name, format_list(SysfsTopology(self._host).online()))
                raise Skipped(reason) from None
            raise

    def _is_refused_always(self, name: str, code: int) -> bool:
        """Whether the controller refuses any affinity: that of a chained or per-CPU interrupt, of many on ARM.

        It then refuses the affinity that the interrupt has already, with the same error.
        """
        now = self.read(name) if code in _NO_AFFINITY else None
        if not now or self._why_offline(now):  # of CPUs that are offline, the kernel says EINVAL, too
            return False
        return self._host.probe_errno(self.where(name), f"{now}\n") == code

    def why_not(self, name: str, new: str, to_come: Callable[[Address], str]) -> Optional[str]:
        """The kernel refuses CPUs that are all offline."""
        return self._why_offline(new)

    def _why_offline(self, cpus: str) -> Optional[str]:
        if parse_list(cpus) & SysfsTopology(self._host).online():
            return None
        return f"its CPUs {cpus} are offline: it has all online ones, as the kernel gives it then"


class DefaultAffinity(CpuMask):
    """`irq.default:`: the affinity of interrupts that are requested later."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, "irq", "", lambda _name: f"{IRQ}/default_smp_affinity")
