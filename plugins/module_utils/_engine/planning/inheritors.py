# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What appeared while a claim was applied, and has no value of before: what it gets when the claim leaves."""

from __future__ import annotations

from typing import Set

from ..kernel.irq import AFFINITY, NEW_INTERRUPTS
from ..model import Address
from .view import View


def plan_inheritors(view: View, held: Set[Address]) -> None:
    """Give interrupts that were requested under a narrowed default the value that the default is restored to."""
    if NEW_INTERRUPTS not in view.restored:
        return
    narrow, wide = view.actual(NEW_INTERRUPTS), view.get(NEW_INTERRUPTS)
    for number in view.resources.irqs.numbers() if narrow != wide else ():
        address = Address(AFFINITY, str(number))
        is_known = address in held or address in view.restored or address in view.planned
        if not is_known and view.actual(address) == narrow and not view.resources.irqs.immovable(number):
            view.assign(address, wide)
