# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Which strategy keeps a host off CPUs, and what reservations of several claims add up to."""

from __future__ import annotations

import re
from typing import Dict, Tuple

from .errors import IsolationError
from .text.cgroup_path import is_within, parent_of
from .text.cpus import NONE, CpuSet

PARTITION, SLICES, TASKS = "partition", "slices", "tasks"

# Since 6.1 a partition can be isolated, and its file shows when the kernel invalidates it.
WORKING_PARTITIONS = (6, 1)


def choose(asked: str, version: int, release: str, cgroup: str = "/machine.slice") -> Tuple[str, str]:
    """The strategy, and why: `version` is the cgroup version of the cpuset controller, `release` the kernel's."""
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
        return "slices", f"cgroup v2, but a partition can only be made below the root, and not of {cgroup}"
    match = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", release)
    if match and (int(match.group(1)), int(match.group(2))) >= WORKING_PARTITIONS:
        return "partition", f"cgroup v2, and Linux {release} has isolated cpuset partitions"
    return "slices", f"cgroup v2, but Linux {release} has no isolated cpuset partitions (they came with 6.1)"


class Reservation:
    """What the reserve_cpus steps of all claims requested so far."""

    def __init__(self) -> None:
        self.by_cgroup: Dict[str, CpuSet] = {}
        self.partition_types: Dict[str, str] = {}
        self.host_nodes: CpuSet = NONE  # the NUMA nodes that steps named for the host's memory

    def add(self, cgroup: str, cpus: CpuSet) -> None:
        """Reserve CPUs for what is in a cgroup."""
        self.by_cgroup[cgroup] = self.by_cgroup.get(cgroup, NONE) | cpus

    def add_type(self, cgroup: str, kind: str) -> str:
        """Request a partition type. Returns the one that fits all: threads that are not pinned need `root`."""
        types = {kind, self.partition_types.get(cgroup, kind)}
        self.partition_types[cgroup] = "root" if "root" in types else "isolated"
        return self.partition_types[cgroup]

    @property
    def cpus(self) -> CpuSet:
        """All reserved CPUs."""
        return NONE.union(*self.by_cgroup.values())

    def is_above(self, cgroup: str) -> bool:
        """Whether CPUs are reserved for this cgroup or for one below it."""
        return any(is_within(reserved, cgroup) for reserved in self.by_cgroup)
