# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Which strategy keeps a host off CPUs, by what the host has."""

from __future__ import annotations

import re
from typing import Tuple

from .errors import IsolationError
from .kernel.cgroup import parent_of

# Since 6.1 a partition can be isolated, and says so when the kernel takes it away.
WORKING_PARTITIONS = (6, 1)


def choose(asked: str, version: int, release: str, cgroup: str = "/machine.slice") -> Tuple[str, str]:
    """The strategy, and why: `version` is that of the cpuset controller's cgroup, `release` the kernel's."""
    if version == 0:
        raise IsolationError("this kernel has no cgroup with a cpuset controller; enable CONFIG_CPUSETS")
    if version == 1:
        if asked in ("auto", "tasks"):
            return "tasks", "the cpuset controller is on cgroup v1"
        raise IsolationError(
            f"strategy {asked}: this host's cpuset controller is on cgroup v1; use strategy auto or tasks, or boot the"
            " host with systemd.unified_cgroup_hierarchy=1"
        )
    if asked == "tasks":
        raise IsolationError("strategy tasks: this host has cgroup v2; use strategy auto, partition or slices")
    if asked != "auto":
        return asked, "as asked"
    if parent_of(cgroup) != "/":
        return "slices", f"cgroup v2, but a partition can be made below the root only, and not of {cgroup}"
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match.group(1)), int(match.group(2))) >= WORKING_PARTITIONS:
        return "partition", f"cgroup v2, and Linux {release} has isolated cpuset partitions"
    return "slices", f"cgroup v2, but Linux {release} has no isolated cpuset partitions (they came with 6.1)"
