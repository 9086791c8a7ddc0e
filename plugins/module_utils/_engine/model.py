# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What the engine speaks of: addresses, steps, claims, the journal, changes. Values only; nothing here reads a host."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Tuple


class Step(NamedTuple):
    """One step of a claim: the name of its module, and its arguments with defaults filled in."""

    name: str
    arguments: Dict[str, Any]


class Claim(NamedTuple):
    """What one owner wants: its steps, and the addresses that they have set so far.

    `created_by` is empty, or names the program whose claim it is: nobody else changes it, though anybody may revert it.
    """

    steps: Tuple[Step, ...]
    holds: Tuple[str, ...]
    created_by: str = ""


class Journal(NamedTuple):
    """Claims by name in the order in which they came, and the value of each setting before any of them."""

    baseline: Dict[str, str]
    claims: Dict[str, Claim]
    kept_off: str = ""  # CPUs that threads of the root cgroup are kept off, as a CPU list
    refused: Mapping[str, str] = {}  # what turned out to be immovable, with the reason: not tried again by every run


class Change(NamedTuple):
    """One setting that is not as it should be."""

    address: str
    before: str
    after: str
