# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Notes below /run that one run leaves for the next: read only if they are ours and valid."""

from __future__ import annotations

from typing import Callable, Optional, TypeVar

from ..errors import IsolationError
from .host import Host

T = TypeVar("T")


def read_note(host: Host, path: str, parse: Callable[[str], T]) -> Optional[T]:
    """The content of a note; None if there is none. `parse` raises ValueError or TypeError if it is not valid.

    Raises IsolationError if it cannot be trusted: root would act on it.
    """
    try:
        text = host.read_own(path)
        return None if text is None else parse(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise IsolationError(
            f"{path} cannot be trusted: {error}. Nothing was changed. Inspect it, and remove it if you do not need it;"
            " a reboot removes it and resets the host, too"
        ) from None
