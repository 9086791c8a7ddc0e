# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What every kind of resource can do. A resource is one setting: an address `kind:name`, a value as text."""

from __future__ import annotations

from typing import List, Optional, Tuple

from ..text.cpus import parse_list


class Kind:
    """One kind of kernel setting. All writes of a family happen together, in the order of their stages."""

    family = ""
    # Whether others (irqbalance, the thread itself) may change it at any time, so that a value which
    # differs right after a write is no failure.
    volatile = False
    # Whether a refusal is no reason to fail: what does not move now is told, and the next run tries again.
    best_effort = False
    # Whether it is read once more right before it is written: what was written before may have set it, too.
    reread_before_write = True

    def read(self, name: str) -> Optional[str]:
        """The value now, normalised; None where the thing does not exist (any more)."""
        raise NotImplementedError

    def write(self, name: str, value: str) -> None:
        """Set it. Raises Refused; Immovable where it is to be skipped with a reason."""
        raise NotImplementedError

    def stages(self, name: str, old: str, new: str) -> List[Tuple[float, str]]:
        """The writes that lead from old to new, each with its place in the order of its family."""
        return [(0, new)]

    def where(self, name: str) -> str:
        """The file (or command) to name in a message."""
        raise NotImplementedError

    def valid_name(self, name: str) -> bool:
        """Whether a saved address may name this: a journal that points elsewhere is refused."""
        raise NotImplementedError

    def valid_value(self, value: str) -> bool:
        """Whether a saved value may be written here; a CPU list unless a kind says otherwise."""
        try:
            parse_list(value)
        except ValueError:
            return False
        return True
