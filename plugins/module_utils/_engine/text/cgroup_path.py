# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Paths of cgroups: absolute, below the root of what is mounted, without a slash at the end."""

from __future__ import annotations

import os
from typing import List, Sequence

from ..errors import IsolationError, quoted

# In bytes. PATH_MAX is 4096, with the directory where the hierarchy is mounted, and the file in the cgroup.
LONGEST_PATH = 4000
LONGEST_NAME = 255


def normalized(path: str) -> str:
    """A path as people write it, with or without slashes around it."""
    return "/" + path.strip("/")


def parent_of(cgroup: str) -> str:
    """The cgroup above one."""
    return cgroup.rpartition("/")[0] or "/"


def is_within(cgroup: str, other: str) -> bool:
    """Whether a cgroup is this other one, or anywhere below it."""
    return f"{cgroup}/".startswith(other if other == "/" else f"{other}/")


def lineage(cgroup: str) -> List[str]:
    """A cgroup with all above it except the root, from the top down."""
    names = cgroup.strip("/").split("/")
    return ["/" + "/".join(names[: depth + 1]) for depth in range(len(names))]


def of_slice(names: Sequence[str]) -> str:
    """The cgroup of the slice whose name has these parts: /a.slice/a-b.slice of a, b; see systemd.slice(5)."""
    return "".join(f"/{'-'.join(names[: depth + 1])}.slice" for depth in range(len(names)))


def is_valid(path: str) -> bool:
    """Whether this is an absolute path that stays inside the hierarchy, and that a file can have."""
    try:
        names = os.fsencode(path).split(b"/")
    except UnicodeEncodeError:
        return False
    if path == "/":
        return True
    if sum(map(len, names)) + len(names) > LONGEST_PATH or max(map(len, names)) > LONGEST_NAME:
        return False
    return path.startswith("/") and not {"", ".", ".."} & set(path[1:].split("/")) and not set("\n\0") & set(path)


def from_option(option: str, value: str) -> str:
    """The path that an option names. Raises IsolationError if it is not valid."""
    path = normalized(value)
    if not is_valid(path):
        raise IsolationError(f"{option}: {quoted(value)} is not the path of a cgroup")
    return path
