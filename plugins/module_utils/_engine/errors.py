# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What can go wrong, each as one sentence for the person who reads it."""

from __future__ import annotations

import errno
import os


class IsolationError(Exception):
    """A request that cannot be carried out; its text is the sentence to show."""


class TimeLimit(Exception):
    """A time limit that ends a run anywhere. Not an IsolationError: what continues after one must not continue now."""


class Refused(IsolationError):
    """The kernel (or systemd) refused a write."""

    def __init__(self, where: str, value: str, reason: str, code: int = 0) -> None:
        self.where = where
        self.value = value
        self.code = code
        super().__init__(f"{where} refused {value!r}: {reason}")

    @classmethod
    def of(cls, error: OSError, where: str, value: str) -> Refused:
        """From the OSError of a write to the file `where`."""
        code = error.errno or 0
        name = errno.errorcode.get(code, "error")
        return cls(where, value, f"{os.strerror(code)} ({name})", code)


class Skipped(Exception):
    """A setting that a kind does not change, for this reason; never an error.

    `permanent` if it stays so as long as the setting exists: then trying again is useless.
    """

    def __init__(self, reason: str, permanent: bool = False) -> None:
        self.permanent = permanent
        super().__init__(reason)


def sentence_of(error: BaseException) -> str:
    """An exception as a part of a sentence: its text if that was written for people, else with its type."""
    return str(error) if isinstance(error, (IsolationError, TimeLimit)) else f"{type(error).__name__}: {error}"
