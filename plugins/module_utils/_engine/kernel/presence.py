# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The only check that libvirt's hook makes for every virtual machine, so it imports almost nothing."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable


def any_exists(root: str, paths: Iterable[str]) -> bool:
    """Whether any of these files of our own exists; a dangling link counts."""
    return any(os.path.lexists(root + path) for path in paths)
