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
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Set, Tuple

from .arguments import check_claim
from .errors import IsolationError
from .model import Address, Claim, Journal, Step
from .paths import CODE, JOURNAL, LOCK
from .resources import Resources
from .text.cpus import parse_list

FORMAT = 1


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
    def locked(self, timeout: float) -> Iterator[None]:
        """Hold the lock of this host, after waiting for it at most `timeout` seconds."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._host.locked(LOCK, timeout))
            except PermissionError:
                raise IsolationError("isolation needs root on the host; run this with become: true") from None
            except TimeoutError:
                raise IsolationError(
                    f"another run has held {LOCK} for more than {timeout:g} s; wait for its end, or raise lock_timeout"
                ) from None
            except OSError as error:  # a directory, say
                raise IsolationError(f"{LOCK} cannot be locked: {error}; inspect it, and remove it") from None
            yield

    def load(self) -> Journal:
        """The journal; an empty one if there is none, or if it is from another boot (see `warning`).

        Raises IsolationError if it cannot be trusted.
        """
        try:
            text = self._host.read_own(JOURNAL)
        except PermissionError:
            raise IsolationError("isolation needs root on the host; run this with become: true") from None
        except IsolationError as error:
            raise self._foreign("users other than root may write it") from error
        if text is None:
            return Journal({}, {})
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise self._foreign(f"its format is {content['format']!r}, this version reads {FORMAT}")
            if content["boot_id"] != self._host.boot_id():
                self.warning = f"the journal {JOURNAL} was from another boot, whose settings are gone: it was discarded"
                return Journal({}, {})
            return self._parse(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._foreign(f"it cannot be read ({type(error).__name__}: {error})") from error
        except IsolationError as error:
            raise error if str(error).startswith(JOURNAL) else self._foreign(str(error)) from error

    def _parse(self, content: Any) -> Journal:
        claims: Dict[str, Claim] = {}
        for name, claim in content["claims"].items():
            check_claim(name)
            given = ((step["name"], dict(step["arguments"])) for step in claim["steps"])
            try:
                steps = tuple(Step(step, self._complete(step, arguments)) for step, arguments in given)
            except IsolationError as error:
                raise IsolationError(f"claim {name!r}: {error}") from error
            holds = tuple(self._address(address) for address in claim["holds"])
            claims[name] = Claim(steps, holds, str(claim.get("maker", "")))
        baseline = dict(self._resources.parse(address, value) for address, value in content["baseline"].items())
        self._checked.update(baseline.items())
        skips = {self._address(address): str(reason) for address, reason in content["refused"].items()}
        parse_list(content["kept_off"])
        return Journal(baseline, claims, content["kept_off"], skips)

    @staticmethod
    def _foreign(why: str) -> IsolationError:
        return IsolationError(
            f"{JOURNAL} cannot be trusted: {why}. Nothing was changed. Inspect it, and remove it if you do not need it;"
            " a reboot removes it and resets the host, too"
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
        """Make the journal durable; without a claim there is nothing to keep, and the file is removed."""
        if not journal.claims:
            self._host.remove(JOURNAL)
            self._host.remove(CODE)
            return
        self._check(journal.baseline)  # what could not be read back must never be written
        content = {
            "format": FORMAT,
            "boot_id": self._host.boot_id(),
            "kept_off": journal.kept_off,
            "refused": journal.permanent_skips,
            "claims": {
                name: {
                    "steps": [step._asdict() for step in claim.steps],
                    "holds": claim.holds,
                    "maker": claim.created_by,
                }
                for name, claim in journal.claims.items()
            },
            "baseline": journal.baseline,
        }
        # A line each, for people; not indented, since Python encodes that ten times as slowly.
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        self._host.save(JOURNAL, "{\n" + ",\n".join(lines) + "\n}\n", mode=0o600)
