# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What can go wrong, each as one sentence for the person who reads it."""

from __future__ import annotations

import errno
import os

LONGEST_QUOTE = 300  # characters


class IsolationError(Exception):
    """A request that cannot be carried out; its text is the sentence to show."""


class NeedsRoot(IsolationError):
    """The kernel denies what only root may do, and this is not root."""

    def __init__(self) -> None:
        super().__init__("isolation needs root on the host; run this with become: true")


class NeedsCapability(IsolationError):
    """Threads are to be bound or moved, and this root must not."""

    def __init__(self) -> None:
        super().__init__(
            "threads can be bound and moved only with CAP_SYS_NICE, which root does not have here; run this on the host"
            " itself, or in a container with its namespaces and that capability"
        )


class TimeLimit(Exception):
    """A time limit that ends a run anywhere. Not an IsolationError: what continues after one must not continue now."""


class Refused(IsolationError):
    """The kernel (or systemd) refused a write."""

    def __init__(self, where: str, value: str, reason: str, code: int = 0) -> None:
        self.where = where
        self.value = value
        self.code = code
        super().__init__(f"{where} refused {quoted(value)}: {reason}")

    @classmethod
    def of(cls, error: OSError, where: str, value: str) -> Refused:
        """From the OSError of a write to the file `where`."""
        return cls(where, value, reason_of(error), error.errno or 0)


class Skipped(Exception):
    """A setting that a kind does not change, for this reason; never an error.

    `permanent` if it stays so as long as the setting exists: then trying again is useless.
    """

    def __init__(self, reason: str, permanent: bool = False) -> None:
        self.permanent = permanent
        super().__init__(reason)


def reason_of(error: OSError) -> str:
    """What a system call returned, such as `No such file or directory (ENOENT)`."""
    code = error.errno or 0  # a timeout of a socket has none
    return f"{os.strerror(code)} ({errno.errorcode.get(code, code)})" if code else str(error) or type(error).__name__


def quoted(value: object) -> str:
    """A value to show in a sentence; of a long one the beginning."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # lists in lists without end, a number of thousands of digits
        text = f"<a very large {type(value).__name__}>"
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def as_text(value: object) -> str:
    """What somebody wrote as an option: text as it is, a number as text; anything else is not valid as such anyway."""
    return value if isinstance(value, str) else quoted(value)


def failed(path: str, what: str, error: OSError) -> IsolationError:
    """Why a file or directory cannot be `read`, `listed` or `locked`."""
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return NeedsRoot()
    advice = "; if its file system is read-only or full, mend that, otherwise remove what is in the way"
    return IsolationError(f"{path} cannot be {what}: {reason_of(error)}{advice if what == 'locked' else ''}")


def is_fault(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a fault of ours, whose traceback helps to find it."""
    if isinstance(error, (Refused, TimeLimit)):
        return False
    return not isinstance(error, IsolationError) or (error.__cause__ is not None and is_fault(error.__cause__))


def sentence_of(error: BaseException) -> str:
    """An exception as a part of a sentence: its text if that was written for people, else with its type."""
    return str(error) if isinstance(error, (IsolationError, TimeLimit)) else f"{type(error).__name__}: {error}"
