# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What is known of a host while steps are planned: actual values, and over them what was planned so far.

A plan only reads and assigns here, so it is a pure function of the host's state.
"""

from __future__ import annotations

from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple

from ..errors import IsolationError
from ..kernel.cgroup import FLAGS, parent_of
from ..kernel.systemd import OVERRIDDEN
from ..kernel.task import Task, read_task
from ..model import Claim, Journal
from ..resources import PLACE, Resources
from ..text.cpus import NONE, CpuSet, format_list, parse_list
from ..text.expression import Expression, evaluate


class Author(NamedTuple):
    """The step that is being planned."""

    claim: str
    position: int  # of the step in its claim, from 0
    step: str


NOBODY = Author("", 0, "")
LISTINGS = 100


class Sweep(NamedTuple):
    """That a cgroup is to be emptied, also of what is forked in it meanwhile."""

    claim: str
    decide: Callable[[Task], Optional[str]]  # the cgroup that a task goes to; None where it stays
    everything_to: Optional[str] = None  # where that is known without a look at the task


class State:
    """Planned over given-back over actual values."""

    def __init__(
        self, resources: Resources, journal: Journal, claims: Mapping[str, Claim], restored: Mapping[str, str]
    ) -> None:
        self.resources = resources
        self.journal = journal
        self.claims = claims
        self.restored = restored
        self.planned: Dict[str, str] = {}
        self.author = NOBODY
        self.authors: Dict[str, Author] = {}
        self.holds: Dict[str, Set[str]] = {}
        self.skipped: Dict[str, str] = {}
        self.notes: Dict[str, object] = {}
        self.warnings: List[str] = []
        # Whether the step being planned is of a claim that was made before.
        self.was_applied = False
        self.sweeps: Dict[str, Sweep] = {}  # by the cgroup that is swept
        self.returns: Dict[str, Sweep] = {}  # likewise, of what claims that leave had moved there
        self.following: Set[str] = set()  # addresses that go with what is given back, whatever else may change
        # Interrupts that were requested while the default was narrow: the value to give back to each.
        self.requested_under_default: Dict[str, str] = {}
        # What reserve_cpus steps have asked for so far: reservations of several claims add up.
        self.reserved: Dict[str, CpuSet] = {}
        self.partition_types: Dict[str, str] = {}
        self.host_nodes: CpuSet = NONE  # the NUMA nodes that such steps have named for the host's memory
        self.kept_off: CpuSet = NONE
        # What irq_affinity steps keep interrupts off: where one has no CPU left, it gets none of these.
        self.masked: CpuSet = NONE
        # The claims that change the CPUs of threads, and so hold the threads' affinities.
        self.narrowing: Set[str] = set()
        self._actual: Dict[str, Optional[str]] = {}
        self._tasks: Dict[str, List[int]] = {}
        self._seen: Dict[int, Optional[Task]] = {}

    def actual(self, address: str) -> Optional[str]:
        """The value on the host, read once; None where the thing is gone."""
        if address not in self._actual:
            self._actual[address] = self.resources.read(address)
        return self._actual[address]

    def get(self, address: str) -> str:
        """The value that the steps so far lead to."""
        if address in self.planned:
            return self.planned[address]
        if address in self.restored:
            return self.restored[address]
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

    def forget(self, cgroup: str) -> None:
        """Plan nothing for the settings of a cgroup any more."""
        for address in [a for a in self.planned if a.startswith("cgroup.") and a.partition(":")[2] == cgroup]:
            del self.planned[address]

    def children(self, cgroup: str) -> List[str]:
        """The cgroups directly below one, as the steps so far leave them."""
        found = set(self.resources.cgroups.children(cgroup))
        for address, value in {**self.restored, **self.planned}.items():
            kind, _colon, path = address.partition(":")
            if kind == "cgroup.exists" and path != "/" and parent_of(path) == cgroup:
                (found.add if value == "present" else found.discard)(path)
        return sorted(found)

    def tree(self, cgroup: str) -> Iterator[str]:
        """A cgroup and all below it, as the steps so far leave them, parents first."""
        yield cgroup
        for child in self.children(cgroup):
            yield from self.tree(child)

    def task(self, task: int) -> Optional[Task]:
        """A task, looked at once; None where it has ended."""
        if task not in self._seen:
            self._seen[task] = read_task(self.resources.host, task)
        return self._seen[task]

    def members(self, cgroup: str) -> Iterator[Tuple[str, Task]]:
        """The tasks that are in a cgroup after the steps so far, by the addresses of their places."""
        if cgroup not in self._tasks:
            self._tasks[cgroup] = self._list(cgroup) if self.actual(f"cgroup.exists:{cgroup}") == "present" else []
        for number in self._tasks[cgroup]:
            task = self.task(number)
            if task:
                address = f"{PLACE}:{task.name}"
                self._actual[address] = self.resources.cgroups.place(number) if task.has_ended else cgroup
                if self.get(address) == cgroup:
                    yield address, task
        for address, value in {**self.restored, **self.planned}.items():
            if value == cgroup and address.startswith(PLACE) and self.actual(address) not in (None, cgroup):
                task = self.task(int(address.split(":")[1]))
                if task:
                    yield address, task

    def _list(self, cgroup: str) -> List[int]:
        """The tasks of a cgroup, listed again while all have ended before they were looked at: so fast some fork."""
        for _listing in range(LISTINGS):
            found = self.resources.cgroups.tasks(cgroup)
            if not found or any(self.task(task) for task in found):
                break
        return found

    def inherited(self, cgroup: str) -> CpuSet:
        """The CPUs that a cgroup without a list of its own gets from those above it."""
        parent = parent_of(cgroup)
        if parent == "/":
            return self.resources.cgroups.effective("/") or self.resources.topology.online()
        return self.cpus(f"cgroup.cpus:{parent}") or self.inherited(parent)

    def keep_off(self, cpus: CpuSet) -> None:
        """Keep the threads of the root cgroup, which has no cpuset of its own, off these CPUs."""
        self.kept_off |= cpus
        self.narrowing.add(self.author.claim)

    def evaluate(self, expression: Expression, option: str) -> CpuSet:
        """The CPUs of an option of the step that is being planned.

        One that went offline since a claim was made is no reason to forget the claim.
        """
        return evaluate(expression, self.resources.topology, option, must_be_online=not self.was_applied)

    # What several steps say of a cpuset, said once.

    def narrow(self, cgroup: str, cpus: CpuSet) -> None:
        """Plan the CPUs of a cgroup; of none means inherited."""
        self._assign_list(cgroup, "cgroup.cpus", "systemd.AllowedCPUs", format_list(cpus))

    def place_memory(self, cgroup: str, nodes: CpuSet) -> None:
        """Plan the NUMA nodes of a cgroup; of none means inherited."""
        self._assign_list(cgroup, "cgroup.mems", "systemd.AllowedMemoryNodes", format_list(nodes))

    def _assign_list(self, cgroup: str, kind: str, drop_in: str, value: str) -> None:
        self.need(cgroup)
        if not value and not self.resources.cgroups.inherits:
            value = self.get(f"{kind}:{parent_of(cgroup)}")
        self.assign(f"{kind}:{cgroup}", value)
        unit = self.resources.cgroups.owner(cgroup)
        if unit:
            overruled = self.resources.systemd.overruled(unit, drop_in.partition(".")[2])
            self.assign(f"{drop_in}:{unit}", value + OVERRIDDEN if overruled else value)

    def need(self, cgroup: str) -> None:
        """Plan that a cgroup exists and can take tasks: each from the root down to it.

        On v2 with the controller enabled above it; on v1 with its parent's CPUs and nodes where it has none.
        """
        if cgroup == "/":
            raise IsolationError("the root cgroup has no cpuset of its own to change; name one below it")
        parts = cgroup.strip("/").split("/")
        for depth in range(len(parts)):
            parent, path = "/" + "/".join(parts[:depth]), "/" + "/".join(parts[: depth + 1])
            if self.resources.cgroups.inherits:
                self.assign(f"cgroup.controller:{parent}", "enabled")
            if self.planned.get(f"cgroup.exists:{path}") == "absent":
                self.forget(path)  # what an earlier step said of it: the later one has the last word
            self.assign(f"cgroup.exists:{path}", "present")
            if not self.resources.cgroups.inherits:
                for kind in ("cgroup.cpus", "cgroup.mems"):
                    if not self.get(f"{kind}:{path}"):
                        self.assign(f"{kind}:{path}", self.get(f"{kind}:{parent}"))
                for flag, initial in FLAGS.items():
                    # Set by a claim that leaves, on a cpuset that was not there and now stays.
                    if self.restored.get(f"cgroup.{flag}:{path}") == "":
                        self.assign(f"cgroup.{flag}:{path}", initial)
