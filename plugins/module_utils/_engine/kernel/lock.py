# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""A lock on a file of our own, see flock(2)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import Iterator, Optional

from ..errors import failed


@contextlib.contextmanager
def locked(target: str, path: str, timeout: Optional[float], create: bool) -> Iterator[None]:
    """Hold it as `Host.locked` says. `path` is what to call the file."""
    try:
        descriptor = _opened(target, create)
    except OSError as error:
        raise failed(path, "locked", error) from None
    if descriptor is None:
        yield
        return
    try:
        deadline = time.monotonic() + (timeout or 0)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if timeout is None else fcntl.LOCK_NB))
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _opened(target: str, create: bool) -> Optional[int]:
    """The descriptor of a lock. Only read: that also works if the file system has become read-only."""
    directory = os.path.dirname(target)
    if not create and not os.path.lexists(target):
        while not os.path.lexists(directory):
            directory = os.path.dirname(directory)
        if not os.access(directory, os.W_OK) and not os.statvfs(directory).f_flag & os.ST_RDONLY:
            raise PermissionError(errno.EACCES, target)  # as if it were made
        return None
    os.makedirs(directory, mode=0o700, exist_ok=True)
    return os.open(target, os.O_RDONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
