# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The engine's vocabulary: addresses, steps, claims, the journal, changes. Values only; nothing here reads a host."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, Mapping, NamedTuple, Optional, Tuple


class Address(str):
    """The address of one setting, `KIND:NAME`: a value, and also the text that journals and results show.

    Without a name it stands for all settings of a kind.
    """

    __slots__ = ("kind", "name")

    kind: str
    name: str

    def __new__(cls, kind: str, name: Optional[str] = None) -> Address:
        """The setting `name` of a kind."""
        self = super().__new__(cls, kind if name is None else f"{kind}:{name}")
        self.kind = kind
        self.name = name or ""
        return self

    @classmethod
    def parse(cls, text: str) -> Address:
        """An address from a journal or an option; only the table of kinds knows whether such a kind and name exist."""
        kind, _colon, name = text.partition(":")
        return cls(kind, name)


Values = Mapping[Address, str]
Granted = Mapping[str, str]


def of_kind(addresses: Iterable[Address], kind: str) -> Iterator[str]:
    """The names of those settings that are of one kind."""
    return (address.name for address in addresses if address.kind == kind)


class Step(NamedTuple):
    """One step of a claim: the name of its module, and its arguments with defaults filled in."""

    name: str
    arguments: Dict[str, Any]


class Claim(NamedTuple):
    """What one owner wants: its steps, and the addresses that they set so far.

    `created_by` is empty, or names the program that made the claim: nobody else changes it, but anybody may revert it.
    `granted` has for each step what its options came to, by the option: `{"cpus": "4-7"}`.
    """

    steps: Tuple[Step, ...]
    holds: Tuple[Address, ...]
    created_by: str = ""
    granted: Tuple[Granted, ...] = ()
    unknown: Mapping[str, Any] = {}  # what a later version has written about it

    def granted_to(self, position: int) -> Granted:
        """What was granted to a step; nothing if the claim was made before that was recorded."""
        return self.granted[position] if position < len(self.granted) else {}


class Journal(NamedTuple):
    """Claims by name in the order in which they came, and the value of each setting before any of them."""

    baseline: Dict[Address, str]
    claims: Dict[str, Claim]
    kept_off: str = ""  # CPUs that threads of the root cgroup are kept off, as a CPU list
    permanent_skips: Mapping[Address, str] = {}  # with the reason: later runs do not try them again
    # What threads and tasks were given last, affinities and cgroups; while a run writes, what it gives them as well.
    given: Mapping[Address, Tuple[str, ...]] = {}
    unknown: Mapping[str, Any] = {}  # what a later version has written

    def owed(self) -> Dict[Address, str]:
        """The baseline of what no claim holds any more: it could not be restored, because CPUs were offline."""
        held = {address for claim in self.claims.values() for address in claim.holds}
        return {address: value for address, value in self.baseline.items() if address not in held}


class Change(NamedTuple):
    """One setting that is not as it should be."""

    address: Address
    before: str
    after: str


class Skip(NamedTuple):
    """A setting that is not changed, though a claim wants it otherwise."""

    address: Address
    reason: str
    permanent: bool = False  # as long as the setting exists


class Skips:
    """The settings that a run does not change, with the last reason for each."""

    def __init__(self, skips: Iterable[Skip] = ()) -> None:
        self._skips = {skip.address: skip for skip in skips}

    def add(self, address: Address, reason: str, permanent: bool = False) -> None:
        """Skip one."""
        self._skips[address] = Skip(address, reason, permanent)

    def discard(self, address: Address) -> None:
        """No longer report it."""
        self._skips.pop(address, None)

    def __contains__(self, address: Address) -> bool:
        return address in self._skips

    def __iter__(self) -> Iterator[Skip]:
        return iter(self._skips.values())

    def reasons(self) -> Dict[Address, str]:
        """The reason for each, sorted by address."""
        return {address: self._skips[address].reason for address in sorted(self._skips)}

    def permanent(self) -> Dict[Address, str]:
        """The reasons of those that need not be tried again."""
        return {skip.address: skip.reason for skip in self if skip.permanent}
