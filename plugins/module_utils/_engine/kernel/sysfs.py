# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Kinds whose value is the whole text of one file: a number, a word, a CPU list, a CPU mask."""

from __future__ import annotations

import re
from typing import Callable, List, Optional

from ..text.cpus import format_list, format_mask, is_number, parse_list, parse_mask
from .host import Host
from .kind import Kind
from .stages import Stage, Write


class SysfsFile(Kind):
    """One value in one file, such as `/sys/.../policy0/scaling_governor`."""

    def __init__(
        self, host: Host, family: str, names: str, path: Callable[[str], str], stage: Stage = Stage.SET
    ) -> None:
        """`names` is a regular expression for all valid names, `path` gives the file of one."""
        self.family = family
        self._host = host
        self._names = names  # compiled when it is first used: few runs use all kinds
        self._path = path
        self._stage = stage

    def read(self, name: str) -> Optional[str]:
        """The value; None if there is no such file."""
        text = self._host.read(self.where(name))
        return None if text is None else self.parsed(text)

    def write(self, name: str, value: str) -> None:
        """Set it. Raises Refused."""
        self._host.write(self.where(name), self.formatted(value))

    def writes(self, name: str, old: str, new: str) -> List[Write]:
        """One write."""
        return [Write(self._stage, new)]

    def where(self, name: str) -> str:
        """The file."""
        return self._path(name)

    def valid_name(self, name: str) -> bool:
        """Whether such a file can have this name."""
        return re.match(f"(?:{self._names})\\Z", name, re.ASCII) is not None

    def parsed(self, text: str) -> str:
        """The value that the text of the file stands for."""
        return text

    def formatted(self, value: str) -> str:
        """What to write into the file for a value."""
        return value


class Number(SysfsFile):
    """A number that is not negative."""

    def valid_value(self, value: str) -> bool:
        """Decimal digits."""
        return is_number(value)


class Word(SysfsFile):
    """A word, such as a governor."""

    def valid_value(self, value: str) -> bool:
        """Letters and digits of ASCII, `_` and `-`."""
        return re.match(r"[A-Za-z0-9_-]+\Z", value) is not None


class CpuList(SysfsFile):
    """A CPU list."""

    def parsed(self, text: str) -> str:
        """The list, as the kernel prints it."""
        return format_list(parse_list(text))


class CpuMask(SysfsFile):
    """A CPU mask; the value is a CPU list, as everywhere."""

    def parsed(self, text: str) -> str:
        """The CPUs of the mask."""
        return format_list(parse_mask(text))

    def formatted(self, value: str) -> str:
        """The mask."""
        return format_mask(parse_list(value))
