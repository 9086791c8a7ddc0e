# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The journal: baseline and claims of one host, as validated JSON below /run, and the lock around it.

/run, because a reboot resets the kernel too. JSON, because whoever can write a pickle can run code.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Set, Tuple

from .arguments import check_claim
from .errors import IsolationError, NeedsRoot, Refused, quoted
from .model import Address, Claim, Journal, Step
from .paths import CODE, JOURNAL, LOCK
from .resources import Resources
from .text.cpus import parse_list

# The format that is written, and the oldest version of this file that can read it. A version that only adds fields
# raises the first: older ones keep what they do not know. One that changes what a field means raises both.
# 1 (of 0.1.0's first builds) did not record what was granted; claims of such a journal are evaluated again.
FORMAT, READER = 2, 2
VERSION = "0.1.0"  # of this collection
KNOWN = {"format", "reader", "version", "boot_id", "kept_off", "refused", "claims", "baseline", "given"}
KNOWN_OF_CLAIM = {"steps", "holds", "maker"}
# What was granted is a list of CPUs or NUMA nodes, except for these options: an interrupt a line, with its handlers,
# names with commas between them, and a path.
NOT_LISTS = {
    "irqs": r"(?:[0-9]{1,18} [^\n]*(?:\n|\Z))*\Z",
    "policies": r"(?:policy[0-9]{1,9}(?:,|\Z))*\Z",
    "cgroup": r"/[^\n]*\Z",
}


class JournalFile:
    """Where the journal of one host is kept.

    The keys in the file are an interface: the libvirt hook of an older version may read them. So
    `created_by` is `maker` in the file, and the permanent skips are `refused`.
    """

    def __init__(self, resources: Resources, complete: Callable[[str, Dict[str, Any]], Dict[str, Any]]) -> None:
        """`complete` checks the arguments of a step and fills in defaults."""
        self._host = resources.host
        self._resources = resources
        self._complete = complete
        self._checked: Set[Tuple[str, str]] = set()  # once a run is enough
        self.warning: Optional[str] = None

    @contextlib.contextmanager
    def locked(self, timeout: float, check: bool = False) -> Iterator[None]:
        """Hold the lock of this host, after waiting for it at most `timeout` seconds.

        With `check`, nothing is written: if nobody has made the lock yet, nobody holds it.
        """
        if not timeout >= 0:  # also nan, which no deadline ever reaches
            raise IsolationError(f"lock_timeout: {timeout!r} is not a number of seconds; expected 0 or more")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._host.locked(LOCK, timeout, create=not check))
            except TimeoutError:
                raise IsolationError(
                    f"another run has held {LOCK} for more than {timeout:g} s; wait for its end, or raise lock_timeout"
                ) from None
            yield

    def load(self) -> Journal:
        """The journal; an empty one if there is none, or if it is from another boot (see `warning`).

        Raises IsolationError if it cannot be trusted.
        """
        try:
            text = self._host.read_own(JOURNAL)
        except NeedsRoot:
            raise
        except IsolationError as error:
            raise self._foreign(str(error).replace(f"{JOURNAL}: ", "").replace(JOURNAL, "it")) from error
        if text is None:
            return Journal({}, {})
        try:
            content = json.loads(text)
            self._check_format(content)
            _check_type(str, "boot_id", content["boot_id"])
            if content["boot_id"] != self._host.boot_id():
                self.warning = f"the journal {JOURNAL} was from another boot, whose settings are gone: it was discarded"
                return Journal({}, {})
            return self._parse(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._foreign(f"it cannot be read ({type(error).__name__}: {error})") from None
        except IsolationError as error:
            raise error if str(error).startswith(JOURNAL) else self._foreign(str(error)) from error

    def _check_format(self, content: Any) -> None:
        written, reader = content["format"], content.get("reader", content["format"])
        if not all(
            isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in (written, reader)
        ):
            raise self._foreign(f"its format is {quoted(written)}, for readers of {quoted(reader)}")
        if reader > FORMAT:
            version = content.get("version")
            by = f"version {version} of vfio.isolation" if isinstance(version, str) else "a newer version"
            raise IsolationError(
                f"{JOURNAL} was written by {by}, in format {written}; this is {VERSION}, which reads up to {FORMAT}."
                " Nothing was changed. Use that version or a newer one: settings are to be restored from this file"
            )

    def _parse(self, content: Any) -> Journal:
        claims: Dict[str, Claim] = {}
        for name, claim in content["claims"].items():
            check_claim(name)
            _check_type(list, f"claim {name!r}: steps, holds", claim["steps"], claim["holds"])
            _check_type(dict, f"claim {name!r}: arguments", *(step["arguments"] for step in claim["steps"]))
            _check_type(str, f"claim {name!r}: maker", claim.get("maker", ""))
            given = ((step["name"], step["arguments"]) for step in claim["steps"])
            try:
                steps = tuple(Step(step, self._complete(step, arguments)) for step, arguments in given)
            except IsolationError as error:
                raise IsolationError(f"claim {name!r}: {error}") from error
            holds = tuple(self._address(address) for address in claim["holds"])
            granted = tuple(self._granted(step.get("granted", {})) for step in claim["steps"])
            unknown = {key: value for key, value in claim.items() if key not in KNOWN_OF_CLAIM}
            claims[name] = Claim(steps, holds, claim.get("maker", ""), granted if any(granted) else (), unknown)
        baseline = dict(self._resources.parse(address, value) for address, value in content["baseline"].items())
        self._checked.update(baseline.items())
        _check_type(str, "refused", *content["refused"].values())
        skips = {self._address(address): reason for address, reason in content["refused"].items()}
        parse_list(content["kept_off"])
        last = {
            self._address(address): self._last(address, values) for address, values in content.get("given", {}).items()
        }
        unknown = {key: value for key, value in content.items() if key not in KNOWN}
        return Journal(baseline, claims, content["kept_off"], skips, last, unknown)

    def _last(self, address: str, values: Any) -> Tuple[str, ...]:
        _check_type(list, f"given to {address}", values)
        return tuple(self._resources.parse(address, value)[1] for value in values)

    @staticmethod
    def _granted(given: Any) -> Dict[str, str]:
        _check_type(str, "granted", *given.values())
        for option, value in given.items():
            if option not in NOT_LISTS:
                parse_list(value)
            elif not re.match(NOT_LISTS[option], value):
                raise IsolationError(f"granted {option!r} is {quoted(value)}")
        return dict(given)

    @staticmethod
    def _foreign(why: str) -> IsolationError:
        return IsolationError(
            f"{JOURNAL} cannot be trusted: {why}. Nothing was changed. Settings are to be restored from this file:"
            " repair it, or reboot the host, which resets them and removes the file"
        )

    def _address(self, text: str) -> Address:
        address = Address.parse(text)
        self._resources.kind(address)
        return address

    def _check(self, baseline: Mapping[Address, str]) -> None:
        for setting in baseline.items():
            if setting not in self._checked:
                self._resources.parse(*setting)
                self._checked.add(setting)

    def save(self, journal: Journal) -> None:
        """Make the journal durable; without a claim, and if nothing is owed, the file is removed."""
        if not journal.claims and not journal.baseline:
            self._host.remove(JOURNAL)
            with contextlib.suppress(Refused):  # it only takes memory
                self._host.remove(CODE)
            return
        self._check(journal.baseline)  # what could not be read back must never be written
        content = {
            **journal.unknown,
            "format": FORMAT,
            "reader": READER,
            "version": VERSION,
            "boot_id": self._host.boot_id(),
            "kept_off": journal.kept_off,
            "refused": journal.permanent_skips,
            "claims": {
                name: {
                    **claim.unknown,
                    "steps": [
                        {**step._asdict(), "granted": claim.granted_to(position)}
                        for position, step in enumerate(claim.steps)
                    ],
                    "holds": claim.holds,
                    "maker": claim.created_by,
                }
                for name, claim in journal.claims.items()
            },
            "baseline": journal.baseline,
            "given": journal.given,
        }
        # A line each, for people; not indented, since Python encodes that ten times as slowly.
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        self._host.save(JOURNAL, "{\n" + ",\n".join(lines) + "\n}\n", mode=0o600)


def _check_type(kind: type, what: str, *values: object) -> None:
    """Raise IsolationError unless these are of this type."""
    for value in values:
        if not isinstance(value, kind):
            raise IsolationError(f"{what}: {quoted(value)} is not a {kind.__name__}")
