# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What libvirt's events do: a domain that starts has a claim of its name, and gives it back when it has ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, Sequence

from ._catalog import fill, read_steps
from ._configuration import DEFAULT, EVENTS_LOCK, domain_file
from ._domain import LIMIT, Domain, parse
from ._domain_claim import Surroundings, decide, relaxed, reserving
from ._errors import IsolationError
from ._job import VARIABLES
from ._journal import FILE, Claim, Step
from ._kernel.host import Host
from ._kernel.libvirt import Domains, check_name
from ._transaction import Engine

# Nobody else's claims are changed or given back.
MAKER = "libvirt"
# What a domain can be configured to besides the variables of the role.
SETTINGS: Dict[str, Any] = {
    "required": {"type": "bool", "default": True},
    "timeout": {"type": "int", "default": 60},
}


class Event:
    """One event of one domain."""

    def __init__(self, name: str, operation: str, host: Host, given: BinaryIO) -> None:
        """`given` is standard input, with the domain's XML."""
        self.name = name
        self.operation = operation
        self.required = operation == "prepare"  # whether the domain may not start where this fails
        self.timeout = int(SETTINGS["timeout"]["default"])
        self._host = host
        self._given = given
        self._variables: Dict[str, Any] = {}

    def configure(self) -> None:
        """Read what the domain is configured to. Raises IsolationError."""
        try:
            check_name(self.name)
        except ValueError as error:
            self.required = self.required and self._host.exists(DEFAULT)
            raise IsolationError(str(error)) from None
        for path in (domain_file(self.name), DEFAULT):
            text = self._host.read_own(path)
            if text is not None:
                self._variables = _complete(path, text)
                self.required = self.required and self._variables["required"]
                self.timeout = self._variables["timeout"]
                return
        self.required = False

    def carry_out(self) -> List[str]:
        """Do what the event asks for. Returns what to log. Raises IsolationError."""
        if self.operation == "started" and self._variables:
            return []
        if self.operation != "prepare" and not self._host.exists(EVENTS_LOCK):
            return []
        with self._alone():
            engine = Engine(self._host, self.timeout)
            if self.operation == "release":
                return self._release(engine)
            if self._variables:
                return self._prepare(engine)
            return self._leave_alone(engine) if self._host.exists(FILE) else []

    def _leave_alone(self, engine: Engine) -> List[str]:
        """Nothing is done for a domain that is not configured; but no claim must confine it to its CPUs."""
        cgroup = self._domain().cgroup
        around = self._around(engine)
        if not around.has_partitions or not _all_by_libvirt(reserving(around.claims, cgroup)):
            return []
        return _change(engine, relaxed(around, cgroup, (MAKER,), emulators=True))

    def _prepare(self, engine: Engine) -> List[str]:
        domain = self._domain()
        around = self._around(engine)
        cgroup = "/" + (self._variables["isolate_cgroup"] or domain.cgroup).strip("/")
        # Where somebody else's claim is for this cgroup, that says that all in it are VMs with CPUs of theirs.
        if _all_by_libvirt(reserving(around.claims, cgroup)):
            around = around._replace(others=_others(engine, cgroup, around.claims))
        decision = decide(domain, self._variables, around, (MAKER,))
        lines = decision.notes + _change(engine, decision.changed)
        outcome = engine.apply(self.name, read_steps(decision.items), maker=MAKER)
        told = outcome.notes
        lines.append(
            f"{len(outcome.changes)} settings changed; strategy {told['strategy']}, CPUs of VMs {told['vm_cpus']}, of"
            f" the host {told['host_cpus']}"
        )
        return lines + outcome.warnings

    def _around(self, engine: Engine) -> Surroundings:
        claims = {name: claim for name, claim in engine.store.load().claims.items() if name != self.name}
        resources = engine.resources
        return Surroundings(resources.topology, resources.cgroups.version, os.uname().release, claims)

    def _release(self, engine: Engine) -> List[str]:
        outcome = engine.revert([self.name], maker=MAKER)
        if not outcome.notes["claims"]:
            return []
        left = [f"{address}: {reason}" for address, reason in sorted(outcome.skipped.items())]
        return [f"{len(outcome.changes)} settings given back", *left, *outcome.warnings]

    def _domain(self) -> Domain:
        domain = parse(self._given.read(LIMIT + 1))
        if domain.name != self.name:
            raise IsolationError(f"the XML on standard input is that of the domain {domain.name[:40]!r}")
        return domain

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One event at a time: what runs and what has claims must not change between looking and acting."""
        path = self._host.path(EVENTS_LOCK)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the time limit bounds it
            yield
        finally:
            os.close(descriptor)


def _complete(path: str, text: str) -> Dict[str, Any]:
    try:
        given = json.loads(text)
        if not isinstance(given, dict):
            raise ValueError("it is no JSON object")
        return fill(path, {**VARIABLES, **SETTINGS}, given)
    except (ValueError, RecursionError) as error:
        raise IsolationError(f"{path} cannot be read: {error}") from None


def _all_by_libvirt(claims: Mapping[str, Claim]) -> bool:
    return all(claim.maker == MAKER for claim in claims.values())


def _others(engine: Engine, cgroup: str, claims: Mapping[str, Claim]) -> List[str]:
    """The cgroups below one in which something runs that is of no domain with a claim."""
    cgroups, domains = engine.resources.cgroups, Domains(engine.resources.host)
    processes = [domains.process(name) for name in domains.running() if name in claims]
    own = [f"{cgroups.place(process)}/" for process in processes if process]
    return [
        child
        for child in cgroups.children(cgroup)
        if cgroups.populated(child) and not any(place.startswith(f"{child}/") for place in own)
    ]


def _change(engine: Engine, claims: Mapping[str, Sequence[Step]]) -> List[str]:
    """Have claims of libvirt go on with other steps."""
    for name, steps in claims.items():
        engine.apply(name, steps, maker=MAKER, acts=False)  # its VM runs
    return [f"the claim {name} goes on without a partition, for others are beside it" for name in claims]
