# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Writes files of our own, completely or not at all, and keeps what was there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Callable, Optional, Tuple

from ..errors import Refused

# Appended to the name of a file while its new version is written.
TEMPORARY_SUFFIX = ".new"


def replace(target: str, path: str, content: bytes, mode: int, owner: Tuple[int, int] = (-1, -1)) -> None:
    """Put a file in place, durably. `path` is what to call it. Raises Refused."""
    beside = target + TEMPORARY_SUFFIX
    try:
        previous = os.umask(0o022)
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        finally:
            os.umask(previous)
        # Not to wait for whoever reads a pipe.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(beside, flags, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
            os.fchown(descriptor, *owner)
        # Not executable before it is complete: libvirt runs every executable in a directory of hooks.
        os.chmod(beside, mode)
        os.replace(beside, target)
        _sync(os.path.dirname(target))
    except OSError as error:
        is_beside = error.filename == beside and not error.filename2
        with contextlib.suppress(OSError):
            os.unlink(beside)  # it may be what the file system is full of
        where = path + TEMPORARY_SUFFIX if is_beside else path
        raise Refused.of(error, where, "a new version of the file") from error


def _sync(directory: str) -> None:
    """Make the names in a directory durable: a crash must not bring back the file that was replaced."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot
            raise
    finally:
        os.close(descriptor)


def keep(target: str, path: str) -> Optional[Callable[[], None]]:
    """What restores the file, or the link, that is there now, byte for byte; None if there is nothing.

    It raises Refused. What is not a file, such as a directory, is left alone.
    """
    try:
        status = os.lstat(target)
        if stat.S_ISLNK(status.st_mode):
            link = os.readlink(target)
            return lambda: _link(target, path, link)
        if not stat.S_ISREG(status.st_mode):
            return lambda: None
        with open(target, "rb") as stream:
            content = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return lambda: None
    return lambda: replace(target, path, content, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))


def _link(target: str, path: str, link: str) -> None:
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(target)
        os.symlink(link, target)
    except OSError as error:
        raise Refused.of(error, path, f"a link to {link}") from error
