# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every part of the model offers, and how one finds another."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type, TypeVar

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Baseline

Answer = Tuple[int, str, str]  # exit code, standard output, standard error


class Difference(NamedTuple):
    """A line that differs between two snapshots; None is the value of one that is not there."""

    line: str
    old: Any
    new: Any


class Part:
    """One kind of setting: what its files hold, and what the kernel or systemd does on a write.

    It speaks for its own paths, commands and lines only. None or False means: not mine, ask the next one.
    """

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        """Begin as the baseline says, on top of the parts that are there already."""

    def read(self, path: str) -> Optional[str]:
        """What a file holds."""
        return None

    def exists(self, path: str) -> bool:
        """Whether there is a file that cannot be read now."""
        return False

    def hotplug(self) -> None:
        """CPUs went offline, or came online."""

    def list(self, path: str) -> Optional[List[str]]:
        """The names in a directory, sorted."""
        return None

    def write(self, path: str, value: str) -> bool:
        """Take a value. Raises OSError as the kernel refuses it."""
        return False

    def make_directory(self, path: str) -> bool:
        """Make a directory. Raises OSError."""
        return False

    def remove_directory(self, path: str) -> bool:
        """Remove a directory. Raises OSError."""
        return False

    def writable(self, path: str) -> bool:
        """Whether the mode of a file lets root write; so it is unless its part says otherwise."""
        return True

    def probe_errno(self, path: str, text: str) -> int:
        """The errno for a text that cannot change anything; 0 where it is not this part's file."""
        return 0

    def converse(self, path: str, message: str) -> Optional[str]:
        """Answer a message to a socket. Raises OSError."""
        return None

    def ask(self, argv: Sequence[str]) -> Optional[Answer]:
        """Run a command that changes nothing."""
        return None

    def change(self, argv: Sequence[str]) -> Optional[Answer]:
        """Run a command that changes something."""
        return None

    def snapshot(self) -> Dict[str, Any]:
        """Every setting, a line for each."""
        return {}

    @staticmethod
    def address(seen: Difference) -> Optional[str]:
        """The address of what differs; None where it is no line of this part's, or only follows from others."""


P = TypeVar("P", bound=Part)


class Parts:
    """The parts of one host by their class, the lower ones first."""

    def __init__(self, kinds: Sequence[Type[Part]], baseline: Baseline) -> None:
        self._parts: Dict[Type[Part], Part] = {}
        for kind in kinds:
            self._parts[kind] = kind(self, baseline)

    def __getitem__(self, kind: Type[P]) -> P:
        part = self._parts[kind]
        assert isinstance(part, kind)
        return part

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())
