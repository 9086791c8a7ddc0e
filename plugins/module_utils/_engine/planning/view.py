# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What is known of a host while steps are planned: its actual values, overlaid with those planned so far.

A plan only reads and assigns here, so it is a pure function of the host's state.
"""

from __future__ import annotations

from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    Type,
    TypeVar,
)

from ..errors import IsolationError
from ..kernel.cpuset import EXISTS, TASK_CGROUP
from ..kernel.task import Task, TaskId, read_task
from ..model import Address, Claim, Granted, Journal, Skips, Values, of_kind
from ..resources import Resources
from ..text.cgroup_path import parent_of
from ..text.cpus import NONE, CpuSet, format_list, parse_list
from ..text.expression import Expression, evaluate, is_given

T = TypeVar("T")


class Author(NamedTuple):
    """The step that is being planned."""

    claim: str
    position: int  # of the step in its claim, from 0
    step: str


NOBODY = Author("", 0, "")
LISTINGS = 100


class Sweep(NamedTuple):
    """A cgroup that is to be emptied, also of tasks forked in it meanwhile."""

    claim: str
    decide: Callable[[Task], Optional[str]]  # the cgroup that a task goes to; None if it stays
    everything_to: Optional[str] = None  # if known without reading the task


class View:
    """Planned values over restored ones over actual ones."""

    def __init__(
        self,
        resources: Resources,
        journal: Journal,
        claims: Mapping[str, Claim],
        restored: Values,
        applied: Optional[str] = None,
    ) -> None:
        """`applied` is the claim whose options are to be evaluated on this host, though it may have been made before.

        The others stand for what was granted to them.
        """
        self.resources = resources
        self.applied = applied
        self.journal = journal
        self.claims = claims
        self.restored = restored  # saved values that settings start from, instead of their actual ones
        self.planned: Dict[Address, str] = {}
        self.author = NOBODY
        self.authors: Dict[Address, Author] = {}
        self.holds: Dict[str, Set[Address]] = {}
        self.skips = Skips()
        self.notes: Dict[str, object] = {}
        self.warnings: List[str] = []
        # Whether the step being planned belongs to a claim that was applied before.
        self.was_applied = False
        self.granted: Dict[str, Dict[int, Dict[str, str]]] = {}  # by claim, and position of the step
        self.sweeps: Dict[str, Sweep] = {}  # by the cgroup that is swept
        self.returns: Dict[str, Sweep] = {}  # the same, for tasks that leaving claims moved there
        self.following: Set[Address] = set()  # settings that are restored along with others, whatever else may change
        self.recorded: Dict[Address, str] = {}  # baselines that are not the actual value
        self.kept_off: CpuSet = NONE  # CPUs that threads of the root cgroup are kept off
        # The claims that change the CPUs of threads, and so hold the threads' affinities.
        self.narrowing: Set[str] = set()
        self._shared: Dict[type, Any] = {}
        self._actual: Dict[Address, Optional[str]] = {}
        self._tasks: Dict[str, List[int]] = {}
        self._seen: Dict[int, Optional[Task]] = {}

    def shared(self, kind: Type[T]) -> T:
        """The object of this type in which the steps of this plan keep what they add up to so far."""
        if kind not in self._shared:
            self._shared[kind] = kind()
        found: T = self._shared[kind]
        return found

    def actual(self, address: Address) -> Optional[str]:
        """The value on the host, read once; None if the setting no longer exists."""
        if address not in self._actual:
            self._actual[address] = self.resources.read(address)
        return self._actual[address]

    def get(self, address: Address) -> str:
        """The value that the steps planned so far lead to."""
        if address in self.planned:
            return self.planned[address]
        if address in self.restored:
            return self.restored[address]
        return self.actual(address) or ""

    def cpus(self, address: Address) -> CpuSet:
        """That value, read as a CPU list."""
        return parse_list(self.get(address))

    def baseline(self, address: Address) -> str:
        """The value before any claim."""
        return self.journal.baseline[address] if address in self.journal.baseline else self.actual(address) or ""

    def assign(self, address: Address, value: str) -> None:
        """Plan a value, even if the setting already has it: the claim holds this setting from now on."""
        self.planned[address] = value
        self.authors[address] = self.author
        self.holds.setdefault(self.author.claim, set()).add(address)
        if self.resources.kind(address).resets_affinities:
            self.narrowing.add(self.author.claim)

    def to_come(self, kind: str) -> Iterator[Tuple[str, str]]:
        """The settings of one kind that are planned or restored: name and value."""
        for name in list(of_kind({**self.restored, **self.planned}, kind)):
            yield name, self.get(Address(kind, name))

    def evaluate(self, expression: Expression, option: str) -> CpuSet:
        """The CPUs of an option of the step that is being planned.

        A CPU that went offline since a claim was made is no reason to forget it.
        """
        topology = self.resources.topology

        def now() -> str:
            cpus = evaluate(expression, topology, option, must_be_online=not self.was_applied)
            return format_list(cpus | (parse_list(self.granted_before().get(option, "")) - topology.online()))

        return parse_list(self.grant(option, now))

    def grant(self, option: str, now: Callable[[], str]) -> str:
        """What an option of the step that is being planned comes to.

        That is what it came to when its claim was made, or what it comes to `now` if that was not recorded, or if the
        claim is being applied: then what was granted counts if `now` raises IsolationError.
        """
        before = self.granted_before()
        if option in before and self.author.claim != self.applied:
            value = before[option]
        else:
            try:
                value = now()
            except IsolationError as error:
                if option not in before:
                    raise
                value = before[option]
                self.warnings.append(
                    f"claim {self.author.claim}, step {self.author.position + 1} ({self.author.step}) keeps {option}"
                    f" {value}, which cannot be evaluated now: {error}"
                )
        self.record_grant(option, value)
        return value

    def record_grant(self, option: str, value: str) -> None:
        """Record what an option of the step that is being planned comes to."""
        self.granted.setdefault(self.author.claim, {}).setdefault(self.author.position, {})[option] = value

    def granted_before(self) -> Granted:
        """What was granted to the step that is being planned when its claim was made."""
        claim = self.claims.get(self.author.claim)
        return claim.granted_to(self.author.position) if claim else {}

    def granted_to(self, name: str, claim: Claim) -> Tuple[Granted, ...]:
        """What is granted to the steps of a claim, by this plan or before it."""
        found = self.granted.get(name, {})
        granted = tuple({**claim.granted_to(i), **found.get(i, {})} for i in range(len(claim.steps)))
        return granted if any(granted) else ()

    def evaluate_optional(self, expression: Any, option: str) -> CpuSet:
        """The same for an option that may be empty: then the set is empty."""
        return self.evaluate(expression, option) if is_given(expression) else NONE

    def warn(self, sentence: str) -> None:
        """Say something once, however often it is planned."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def keep_off(self, cpus: CpuSet) -> None:
        """Keep the threads of the root cgroup, which has no cpuset of its own, off these CPUs."""
        self.kept_off |= cpus
        self.narrowing.add(self.author.claim)

    # Cgroups and tasks, as the steps planned so far leave them

    def exists(self, cgroup: str) -> bool:
        """Whether this cgroup exists."""
        return self.get(Address(EXISTS, cgroup)) == "present"

    def children(self, cgroup: str) -> List[str]:
        """The cgroups directly below one."""
        found = set(self.resources.cgroups.children(cgroup))
        for path, value in self.to_come(EXISTS):
            if path != "/" and parent_of(path) == cgroup:
                (found.add if value == "present" else found.discard)(path)
        return sorted(found)

    def tree(self, cgroup: str) -> Iterator[str]:
        """A cgroup and all below it, parents first."""
        yield cgroup
        for child in self.children(cgroup):
            yield from self.tree(child)

    def task(self, number: int) -> Optional[Task]:
        """A task, read once; None if it has ended."""
        if number not in self._seen:
            self._seen[number] = read_task(self.resources.host, number)
        return self._seen[number]

    def members(self, cgroup: str) -> Iterator[Tuple[Address, Task]]:
        """The tasks that are in a cgroup, by the addresses of their places."""
        if cgroup not in self._tasks:
            exists = self.actual(Address(EXISTS, cgroup)) == "present"
            self._tasks[cgroup] = self._list(cgroup) if exists else []
        for number in self._tasks[cgroup]:
            task = self.task(number)
            if task:
                address = Address(TASK_CGROUP, task.name)
                self._actual[address] = self.resources.cgroups.place(number) if task.has_ended else cgroup
                if self.get(address) == cgroup:
                    yield address, task
        for name, value in list(self.to_come(TASK_CGROUP)):
            address = Address(TASK_CGROUP, name)
            if value == cgroup and self.actual(address) not in (None, cgroup):
                known = TaskId.parse(name)
                task = self.task(known.number) if known else None
                if task:
                    yield address, task

    def _list(self, cgroup: str) -> List[int]:
        """The tasks of a cgroup, listed again if all ended before they were read: some fork that fast."""
        for _listing in range(LISTINGS):
            found = self.resources.cgroups.tasks(cgroup)
            if not found or any(self.task(task) for task in found):
                break
        return found
