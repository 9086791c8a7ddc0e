# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What every kind of setting can do, and what the engine must know of it."""

from __future__ import annotations

from typing import Callable, Iterable, List, Optional

from ..model import Address
from ..text.cpus import format_list, parse_list
from .stages import Stage, Write


class Kind:
    """One kind of kernel setting: the part before the colon in an address `KIND:NAME`. Values are text.

    All writes of a family happen together, in the order of their stages.
    """

    family = ""
    # Others (irqbalance, the thread itself) may change it at any time: a value that differs right after a write is not
    # a failure.
    volatile = False
    # A refusal is not a failure: it is reported, and the next run tries again.
    best_effort = False
    # It is read once more right before it is written: an earlier write may have set it, too.
    reread_before_write = True
    # A write may make the kernel reset the affinities of threads.
    resets_affinities = False
    # systemd or the kernel changes it along with cpusets, so it is written again when they change.
    rewritten_with_cpusets = False
    # Other writes of its family may change it, so it is read back after them even if it was not written.
    affected_by_family = False
    # What several claims want adds up. So if one of them leaves, all start again from the baseline.
    adds_up = False
    # A claim that wants it records its baseline even if it already has the value: others may change it later.
    held_when_right = False
    # What is recorded is not the value before, but what its owner requested.
    records_request = False
    # What it was given last is recorded, too: its owner may choose another value since.
    records_given = False

    def read(self, name: str) -> Optional[str]:
        """The current value, normalised; None if the setting does not exist (any more)."""
        raise NotImplementedError

    def write(self, name: str, value: str) -> None:
        """Set it. Raises Refused, or Skipped with a reason if it is left unchanged."""
        raise NotImplementedError

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """The writes that lead from old to new."""
        return [Write(Stage.SET, new)]

    def where(self, name: str) -> str:
        """The file (or command) to name in a message."""
        raise NotImplementedError

    def valid_name(self, name: str) -> bool:
        """Whether a saved address may have this name: a journal that points elsewhere is refused."""
        raise NotImplementedError

    def valid_value(self, value: str) -> bool:
        """Whether a saved value may be written here; a CPU list unless a kind says otherwise.

        Only in the form in which it is read: in another form (`3,1`, `0-7:1/2`), the write would seem to have failed.
        """
        try:
            return format_list(parse_list(value)) == value
        except ValueError:
            return False

    def is_offline(self, name: str) -> bool:
        """Whether it exists, but can be neither read nor written, because its CPUs are offline."""
        return False

    def why_not(self, name: str, new: str, to_come: Callable[[Address], str]) -> Optional[str]:
        """Why a write would leave it alone, if that is known without one; `to_come` gives the values after the run."""
        return None

    def depends_on(self, name: str) -> Optional[Address]:
        """The setting for the existence of what this one belongs to; None if no claim can change that."""
        return None

    def moved_threads(self, name: str) -> Iterable[int]:
        """The threads that a write moves to the cgroup that is written."""
        return ()

    def explain(self, name: str, wanted: str, now: Optional[str]) -> str:
        """The message if it reads `now` after `wanted` was written."""
        return f"{self.where(name)} took {wanted!r}, but reads {now!r}"
