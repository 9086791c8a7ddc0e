# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What events of virtual machines do: a claim of the same name is applied at the start, and reverted at the end."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar, ContextManager, Dict, List, Mapping, Optional, Sequence

from ..arguments import validated
from ..errors import IsolationError, sentence_of
from ..kernel.host import Host
from ..model import Claim, Step
from ..paths import JOURNAL, TIMEOUT, HookPaths
from ..planning.virtual_machines import AUTO
from ..steps.catalog import read_steps
from ..text.cgroup_path import from_option
from ..text.cpus import format_list
from ..text.domain import Domain
from ..transaction.engine import Engine
from .claim import DOMAIN_VARIABLES, HostContext, decide, lasting_partition, relaxed, reserving
from .role_steps import VARIABLES

# The events.
PREPARE, STARTED, RELEASE = "prepare", "started", "release"
LONGEST_TIMEOUT = 3600  # seconds
# A VM that has ended waits for nothing, and a claim that is not reverted is worse than one that is reverted late.
RELEASE_TIMEOUT = 600
# The options of a virtual machine besides the variables; the modules have them for all, too.
SETTINGS: Dict[str, Any] = {
    "required": {"type": "bool", "default": True},
    "timeout": {"type": "int", "default": TIMEOUT},
}
OPTIONS = {**VARIABLES, **DOMAIN_VARIABLES, **SETTINGS}


class Platform(ABC):
    """What starts and ends virtual machines, and reports that."""

    created_by: ClassVar[str]  # the creator of its claims; nobody else's are changed or reverted
    paths: ClassVar[HookPaths]

    @abstractmethod
    def check_name(self, name: str) -> None:
        """Raise ValueError if no virtual machine can have this name."""

    @abstractmethod
    def domain(self, name: str) -> Domain:
        """The virtual machine of the event. Raises IsolationError."""

    @abstractmethod
    def processes(self) -> Dict[str, int]:
        """The QEMU processes of those that run, by their names."""

    @abstractmethod
    def unseen(self) -> List[str]:
        """Those that could start in the same cgroup without an event, as people call them."""


class Event:
    """One event of one virtual machine."""

    def __init__(self, name: str, operation: str, host: Host, platform: Platform) -> None:
        self.name = name
        self.operation = operation
        self.required = operation == PREPARE  # whether it may not start if this fails
        self.timeout = TIMEOUT
        self._host = host
        self._platform = platform
        self._variables: Dict[str, Any] = {}
        self._found: Optional[Domain] = None

    def configure(self) -> None:
        """Read the configuration of the virtual machine. Raises IsolationError."""
        # What was read earlier no longer counts.
        self._variables, self.timeout = {}, TIMEOUT
        self.required = self.operation == PREPARE
        try:
            self._platform.check_name(self.name)
        except ValueError as error:
            self.required = self.required and self._host.exists(self._paths.default)
            raise IsolationError(str(error)) from None
        if self.operation == RELEASE:
            self.timeout = RELEASE_TIMEOUT
            return  # a claim is reverted whatever is configured now
        for path in (self._paths.file(self.name), self._paths.default):
            text = self._host.read_own(path)
            if text is not None:
                self._variables = _complete(path, text)
                self.required = self.operation == PREPARE and self._variables["required"]
                self.timeout = self._variables["timeout"]
                return
        self.required = False

    def carry_out(self) -> List[str]:
        """Do what the event requires. Returns what to log. Raises IsolationError."""
        if self.operation == STARTED and self._variables:
            return []
        if self.operation != PREPARE and not self._host.exists(self._paths.lock):
            return []
        with event_lock(self._host, self._paths):
            if self.operation == RELEASE:
                return self._release()
            self.configure()  # it may have changed while this waited
            if not self._variables:
                return self._leave_alone()
            try:
                return self._prepare()
            except IsolationError as error:
                if self.required:
                    raise
                # It starts anyway, like one that is not configured.
                return [f"it starts without isolation: {error}", *self._leave_alone()]

    @property
    def _paths(self) -> HookPaths:
        return self._platform.paths

    @property
    def _creator(self) -> str:
        return self._platform.created_by

    def _engine(self) -> Engine:
        """A new engine for each change: an engine remembers what it read and wrote."""
        return Engine(self._host, self.timeout)

    def _leave_alone(self) -> List[str]:
        """Do nothing for the domain, except that no other claim should confine it to the CPUs of that claim."""
        if not self._host.exists(JOURNAL):
            return []
        cgroup, engine = self._domain().cgroup, self._engine()
        around = self._around(engine, engine.journal_file.load().claims)
        lines = []
        lasting = lasting_partition(around, cgroup, (self._creator,))
        if lasting:
            lines.append(f"{cgroup} is in a partition that has CPUs {format_list(lasting)}: it can have no others")
        elif around.version == 2:
            lines += self._change(relaxed(around, cgroup, (self._creator,)))
        return lines

    def _prepare(self) -> List[str]:
        domain, engine = self._domain(), self._engine()
        before = engine.journal_file.load().claims
        around = self._around(engine, before)
        given = self._variables["isolate_cgroup"]
        cgroup = domain.cgroup if given in (None, "", AUTO) else from_option("isolate_cgroup", given)
        # If somebody else has a claim for this cgroup, all in it are VMs with reserved CPUs.
        if all(claim.created_by == self._creator for claim in reserving(around.claims, cgroup).values()):
            others = _others(engine, cgroup, around.claims, self._platform.processes())
            around = around._replace(others=others, unseen=self._platform.unseen())
        decision = decide(domain, {**self._variables, "isolate_cgroup": cgroup}, around, (self._creator,))
        lines = decision.notes
        try:
            lines += self._change(decision.changed)
            outcome = self._engine().apply(self.name, read_steps(decision.items), created_by=self._creator)
            notes = outcome.notes
            lines.append(
                f"{len(outcome.changes)} settings changed; strategy {notes['strategy']}, CPUs of VMs"
                f" {notes['vm_cpus']}, of the host {notes['host_cpus']}"
            )
            return lines + outcome.warnings
        except Exception as error:  # also a time limit: the other claims get their partition back in any case
            failures = self._take_back((self.name, *decision.changed), before)
            if failures:
                raise IsolationError("; ".join([sentence_of(error), *failures])) from error
            raise

    def _take_back(self, names: Sequence[str], before: Mapping[str, Claim]) -> List[str]:
        """Have claims of this platform be what they were. Returns a sentence for each that cannot be."""
        failures = []
        for name in names:
            try:
                if name not in before:
                    self._engine().revert([name], created_by=self._creator)
                elif before[name].created_by == self._creator:
                    self._change({name: before[name].steps})
            except Exception as error:  # whatever it is, the others are taken back
                failures.append(f"the claim {name} is not as it was before: {sentence_of(error)}")
        return failures

    def _around(self, engine: Engine, known: Mapping[str, Claim]) -> HostContext:
        claims = {name: claim for name, claim in known.items() if name != self.name}
        resources = engine.resources
        return HostContext(resources.topology, resources.cgroups.version, self._host.kernel_release(), claims)

    def _change(self, claims: Mapping[str, Sequence[Step]]) -> List[str]:
        """Have claims of this platform continue with other steps."""
        for name, steps in claims.items():
            self._engine().apply(name, steps, created_by=self._creator, acts=False)  # its VM runs
        return [f"the claim {name} continues without a partition" for name in claims]

    def _release(self) -> List[str]:
        outcome = self._engine().revert([self.name], created_by=self._creator)
        if not outcome.notes["claims"]:
            return []
        left = [f"{address}: {reason}" for address, reason in sorted(outcome.skipped.items())]
        return [f"{len(outcome.changes)} settings restored", *left, *outcome.warnings]

    def _domain(self) -> Domain:
        if self._found is None:
            self._found = self._platform.domain(self.name)
        return self._found


def event_lock(host: Host, paths: HookPaths) -> ContextManager[None]:
    """One event at a time: what runs and what has claims must not change between reading and acting.

    The time limit of the event bounds the wait.
    """
    return host.locked(paths.lock)


def _complete(path: str, text: str) -> Dict[str, Any]:
    try:
        given = json.loads(text)
        if not isinstance(given, dict):
            raise ValueError("it is not a JSON object")
        configured = validated(path, OPTIONS, given)
        if not 0 < configured["timeout"] <= LONGEST_TIMEOUT:
            raise ValueError(f"timeout is {configured['timeout']}; expected 1 to {LONGEST_TIMEOUT} seconds")
        return configured
    except (ValueError, RecursionError) as error:
        raise IsolationError(f"{path} cannot be read: {error}") from None


def _others(engine: Engine, cgroup: str, claims: Mapping[str, Claim], running: Mapping[str, int]) -> List[str]:
    """The cgroups below one in which anything runs that belongs to no virtual machine with a claim for it."""
    cgroups, claimed = engine.resources.cgroups, reserving(claims, cgroup)
    own = [f"{cgroups.place(process)}/" for name, process in running.items() if name in claimed]
    return [
        child
        for child in cgroups.children(cgroup)
        if cgroups.populated(child) and not any(place.startswith(f"{child}/") for place in own)
    ]
