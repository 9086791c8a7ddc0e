# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What is known of a host while steps are planned: actual values, and over them what was planned so far.

A plan only reads and assigns here, so it is a pure function of the host's state.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, NamedTuple, Optional, Set

from ._cpus import NONE, CpuSet, format_list, parse_list
from ._errors import IsolationError
from ._expression import Expression, evaluate
from ._journal import Journal
from ._kernel.systemd import INSISTED
from ._kernel.threads import start_time
from ._resources import Resources


class Author(NamedTuple):
    """The step that is being planned."""

    claim: str
    position: int  # of the step in its claim, from 0
    step: str


NOBODY = Author("", 0, "")


class State:
    """Planned over given-back over actual values."""

    def __init__(self, resources: Resources, journal: Journal, given_back: Mapping[str, str]) -> None:
        self.resources = resources
        self.journal = journal
        self.given_back = given_back
        self.planned: Dict[str, str] = {}
        self.author = NOBODY
        self.authors: Dict[str, Author] = {}
        self.holds: Dict[str, Set[str]] = {}
        self.skipped: Dict[str, str] = {}
        self.notes: Dict[str, object] = {}
        self.warnings: List[str] = []
        # Whether the step being planned is of a claim that was made before.
        self.standing = False
        # Interrupts that were requested while the default was narrow: the value to give back to each.
        self.born: Dict[str, str] = {}
        # What reserve_cpus steps have asked for so far: reservations of several claims add up.
        self.reserved: Dict[str, CpuSet] = {}
        self.partition_types: Dict[str, str] = {}
        self.kept_off: CpuSet = NONE
        # What irq_affinity steps keep interrupts off: where one has no CPU left, it gets none of these.
        self.masked: CpuSet = NONE
        # The claims that change the CPUs of threads, and so hold the threads' affinities.
        self.narrowing: Set[str] = set()
        self._actual: Dict[str, Optional[str]] = {}

    def actual(self, address: str) -> Optional[str]:
        """The value on the host, read once; None where the thing is gone."""
        if address not in self._actual:
            self._actual[address] = self.resources.read(address)
        return self._actual[address]

    def get(self, address: str) -> str:
        """The value that the steps so far lead to."""
        if address in self.planned:
            return self.planned[address]
        if address in self.given_back:
            return self.given_back[address]
        return self.actual(address) or ""

    def cpus(self, address: str) -> CpuSet:
        """That value, read as a CPU list."""
        return parse_list(self.get(address))

    def assign(self, address: str, value: str) -> None:
        """Plan a value. Also where it is the value already: the claim holds this setting from now on."""
        self.planned[address] = value
        self.authors[address] = self.author
        self.holds.setdefault(self.author.claim, set()).add(address)
        if address.startswith(("cgroup.", "task.")):
            self.narrowing.add(self.author.claim)

    def skip(self, address: str, reason: str) -> None:
        """Leave a setting alone, and say why."""
        self.skipped[address] = reason

    def move(self, pid: int, cgroup: str) -> None:
        """Plan the cgroup of a process, unless it has ended."""
        start = start_time(self.resources.host, pid)
        address = f"task.cgroup:{pid}:{start}"
        if start is not None and self.actual(address) is not None:
            self.assign(address, cgroup)

    def inherited(self, cgroup: str) -> CpuSet:
        """The CPUs that a cgroup without a list of its own gets from those above it."""
        parent = cgroup.rpartition("/")[0]
        if not parent:
            return self.resources.cgroups.cpus("/", "cpuset.cpus.effective") or self.resources.topology.online()
        return self.cpus(f"cgroup.cpus:{parent}") or self.inherited(parent)

    def keep_off(self, cpus: CpuSet) -> None:
        """Keep the threads of the root cgroup, which has no cpuset of its own, off these CPUs."""
        self.kept_off |= cpus
        self.narrowing.add(self.author.claim)

    def evaluate(self, expression: Expression, option: str) -> CpuSet:
        """The CPUs of an option of the step that is being planned.

        One that went offline since a claim was made is no reason to forget the claim.
        """
        return evaluate(expression, self.resources.topology, option, must_be_online=not self.standing)

    # What several steps say of a cpuset, said once.

    def narrow(self, cgroup: str, cpus: CpuSet) -> None:
        """Plan the CPUs of a cgroup; of none means inherited."""
        self._assign_list(cgroup, "cgroup.cpus", "systemd.AllowedCPUs", format_list(cpus))

    def place_memory(self, cgroup: str, nodes: CpuSet) -> None:
        """Plan the NUMA nodes of a cgroup; of none means inherited."""
        self._assign_list(cgroup, "cgroup.mems", "systemd.AllowedMemoryNodes", format_list(nodes))

    def _assign_list(self, cgroup: str, kind: str, drop_in: str, value: str) -> None:
        self.need(cgroup)
        self.assign(f"{kind}:{cgroup}", value)
        unit = self.resources.cgroups.owner(cgroup)
        if unit:
            overruled = self.resources.systemd.overruled(unit, drop_in.partition(".")[2])
            self.assign(f"{drop_in}:{unit}", value + INSISTED if overruled else value)

    def need(self, cgroup: str) -> None:
        """Plan that a cgroup exists, with the cpuset controller enabled from the root down to it."""
        if cgroup == "/":
            raise IsolationError("the root cgroup has no cpuset of its own to change; name one below it")
        parts = cgroup.strip("/").split("/")
        for depth in range(len(parts)):
            parent = "/" + "/".join(parts[:depth])
            if depth:
                self.assign(f"cgroup.exists:{parent}", "present")
            self.assign(f"cgroup.controller:{parent}", "enabled")
        self.assign(f"cgroup.exists:{cgroup}", "present")
