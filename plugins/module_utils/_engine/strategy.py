# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Which strategy keeps a host off CPUs, and what reservations of several claims add up to."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Dict, List, Optional, Set, Tuple

from .errors import IsolationError
from .text.cgroup_path import is_within, parent_of
from .text.cpus import NONE, CpuSet, format_list

PARTITION, SLICES, TASKS = "partition", "slices", "tasks"

# Since 6.1 a partition can be isolated, and its file shows when the kernel invalidates it.
WORKING_PARTITIONS = (6, 1)
# Since 6.7 no partition of type root can have CPUs that were isolated at boot; before 6.18, a mistake made that true of
# partitions of type isolated as well: the kernel compared the type that the cgroup had so far.
ROOT_WITHOUT_ISOLCPUS = (6, 7)
ISOLATED_WITH_ISOLCPUS = (6, 18)

# Since 7.0 kernel threads follow the CPUs that are isolated, and no other partitions.
FOLLOW_ISOLATED_ONLY = (7, 0)


def choose(
    asked: str, version: int, release: str, cgroup: str = "/machine.slice", at_boot: CpuSet = NONE
) -> Tuple[str, str]:
    """The strategy, and why.

    `version` is the cgroup version of the cpuset controller, `release` the kernel's, and `at_boot` those of the
    cgroup's CPUs that were isolated at boot.
    """
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
    if at_boot and "isolated" in refused_types(release):
        return "slices", f"cgroup v2, but {why_refused(release, at_boot)}"
    if _is_at_least(release, WORKING_PARTITIONS):
        return "partition", f"cgroup v2, and Linux {release} has isolated cpuset partitions"
    return "slices", f"cgroup v2, but Linux {release} has no isolated cpuset partitions (they came with 6.1)"


def refused_types(release: str) -> Tuple[str, ...]:
    """The types of which this kernel makes no partition of CPUs that were isolated at boot."""
    if not _is_at_least(release, ROOT_WITHOUT_ISOLCPUS):
        return ()
    return ("root",) if _is_at_least(release, ISOLATED_WITH_ISOLCPUS) else ("root", "isolated")


def why_refused(release: str, at_boot: CpuSet) -> str:
    """Why this kernel makes no partition of these types of CPUs that were isolated at boot."""
    kinds = " of type root" if len(refused_types(release)) == 1 else ""
    return f"Linux {release} makes no partition{kinds} of CPUs {format_list(at_boot)}, isolated at boot (isolcpus=)"


def kernel_threads_stay(release: str, kind: str) -> bool:
    """Whether this kernel leaves its threads on the CPUs of a partition of this type."""
    return kind != "isolated" and _is_at_least(release, FOLLOW_ISOLATED_ONLY)


def _is_at_least(release: str, version: Tuple[int, int]) -> bool:
    match = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", release)
    return match is not None and (int(match.group(1)), int(match.group(2))) >= version


class Reservation:
    """What the reserve_cpus steps of all claims requested so far."""

    def __init__(self) -> None:
        self.by_cgroup: Dict[str, CpuSet] = {}
        self._claims: List[Tuple[str, str, CpuSet]] = []  # claim, cgroup, CPUs
        self.partitions: Dict[str, str] = {}  # the type that is requested for each
        self.shared: Set[str] = set()  # cgroups with reservations of strategy slices
        self.host_nodes: CpuSet = NONE  # the NUMA nodes that steps named for the host's memory

    def add(self, cgroup: str, cpus: CpuSet, claim: str = "") -> None:
        """Reserve CPUs for what is in a cgroup."""
        self._claims.append((claim, cgroup, cpus))
        self.by_cgroup[cgroup] = self.by_cgroup.get(cgroup, NONE) | cpus

    def add_partition(self, cgroup: str, kind: str) -> None:
        """Request a partition of a type."""
        self.partitions[cgroup] = "root" if "root" in (kind, self.partitions.get(cgroup)) else "isolated"

    def partition_type(self, cgroup: str) -> str:
        """The type that fits all that is in a partition: threads that are not pinned need `root`."""
        return "root" if any(is_within(shared, cgroup) for shared in self.shared) else self.partitions[cgroup]

    @property
    def cpus(self) -> CpuSet:
        """All reserved CPUs."""
        return NONE.union(*self.by_cgroup.values())

    def conflict(self, claim: str) -> Optional[str]:
        """The first CPU that a claim, or another one in its place, reserves inside and outside of a partition."""
        for (one, cgroup, cpus), (two, other, theirs) in combinations(self._claims, 2):
            inside, outside = self._partition_of(cgroup), self._partition_of(other)
            if cpus & theirs and inside != outside and claim in (one, two):
                shared = format_list(cpus & theirs)
                return (
                    f"CPU {shared} cannot be in the partition {inside or outside} and outside of it:"
                    f" the claim {one!r} reserves it for {cgroup}, the claim {two!r} for {other}"
                )
        return None

    def _partition_of(self, cgroup: str) -> Optional[str]:
        return next((partition for partition in self.partitions if is_within(cgroup, partition)), None)

    def within(self, cgroup: str) -> CpuSet:
        """The CPUs reserved for a cgroup and for those below it."""
        return NONE.union(*(cpus for reserved, cpus in self.by_cgroup.items() if is_within(reserved, cgroup)))

    def is_above(self, cgroup: str) -> bool:
        """Whether CPUs are reserved for this cgroup or for one below it."""
        return any(is_within(reserved, cgroup) for reserved in self.by_cgroup)
