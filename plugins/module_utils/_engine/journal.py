# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The journal: baseline and claims of one host, as validated JSON below /run, and the lock around it.

/run, because a reboot resets the kernel too. JSON, because whoever can write a pickle can run code.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import Any, Callable, Dict, Iterator, Mapping, Optional

from .errors import IsolationError
from .kernel.host import Host
from .model import Claim, Journal, Step

DIRECTORY = "/run/vfio-isolation"
FILE = f"{DIRECTORY}/journal.json"
LOCK = f"{DIRECTORY}/lock"
FORMAT = 1


class JournalFile:
    """Where the journal of one host is kept."""

    def __init__(
        self,
        host: Host,
        check: Callable[[str, object], None],
        complete: Callable[[str, Dict[str, Any]], Dict[str, Any]],
    ) -> None:
        self._host = host
        self._check = check
        self._complete = complete
        self._checked: Dict[str, str] = {}  # once a run is enough
        self.warning: Optional[str] = None

    @contextlib.contextmanager
    def locked(self, timeout: float) -> Iterator[None]:
        """Hold the lock of this host, after waiting for it `timeout` seconds at most."""
        directory = self._host.path(DIRECTORY)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            descriptor = os.open(self._host.path(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError:
            raise IsolationError("isolation needs root on the host; run this with become: true") from None
        try:
            _wait(descriptor, timeout)
            yield
        finally:
            os.close(descriptor)

    def load(self) -> Journal:
        """The journal; an empty one where there is none, or where it is of another boot (see `warning`).

        Raises IsolationError where it cannot be trusted.
        """
        try:
            text = self._host.read_own(FILE)
        except PermissionError:
            raise IsolationError("isolation needs root on the host; run this with become: true") from None
        except IsolationError as error:
            raise self._foreign("others than root may write it") from error
        if text is None:
            return Journal({}, {})
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise self._foreign(f"its format is {content['format']!r}, this version reads {FORMAT}")
            if content["boot_id"] != self._boot_id():
                self.warning = f"the journal {FILE} was of another boot, whose settings are gone: it was discarded"
                return Journal({}, {})
            return self._parse(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._foreign(f"it cannot be read ({type(error).__name__}: {error})") from error
        except IsolationError as error:
            raise error if str(error).startswith(FILE) else self._foreign(str(error)) from error

    def _parse(self, content: Any) -> Journal:
        claims: Dict[str, Claim] = {}
        for name, claim in content["claims"].items():
            given = ((step["name"], dict(step["arguments"])) for step in claim["steps"])
            try:
                steps = tuple(Step(step, self._complete(step, arguments)) for step, arguments in given)
            except IsolationError as error:
                raise IsolationError(f"claim {name!r}: {error}") from error
            created_by = str(claim.get("created_by", claim.get("maker", "")))  # 0.1.0 called it maker
            claims[name] = Claim(steps, tuple(str(address) for address in claim["holds"]), created_by)
        baseline = dict(content["baseline"])
        self._check_all(baseline)
        return Journal(baseline, claims, str(content["kept_off"]), dict(content["refused"]))

    @staticmethod
    def _foreign(why: str) -> IsolationError:
        return IsolationError(
            f"{FILE} is not a journal to trust: {why}. Nothing was changed. Look at it, and remove it if what it"
            " says is of no use; a reboot removes it and resets the host, too"
        )

    def _boot_id(self) -> str:
        return self._host.read("/proc/sys/kernel/random/boot_id") or ""

    def _check_all(self, baseline: Mapping[str, str]) -> None:
        for address, value in baseline.items():
            if address not in self._checked or self._checked[address] != value:
                self._check(address, value)
                self._checked[address] = value

    def save(self, journal: Journal) -> None:
        """Make the journal durable; without a claim there is nothing to keep, and the file goes."""
        if not journal.claims:
            self._host.remove(FILE)
            return
        self._check_all(journal.baseline)  # what could not be read back must never be written
        content = {
            "format": FORMAT,
            "boot_id": self._boot_id(),
            "kept_off": journal.kept_off,
            "refused": journal.refused,
            "claims": {
                name: {
                    "steps": [step._asdict() for step in claim.steps],
                    "holds": claim.holds,
                    "created_by": claim.created_by,
                }
                for name, claim in journal.claims.items()
            },
            "baseline": journal.baseline,
        }
        # A line each, for people; not indented, since Python encodes that ten times as slowly.
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        self._host.save(FILE, "{\n" + ",\n".join(lines) + "\n}\n", mode=0o600)


def _wait(descriptor: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise IsolationError(
                    f"another run has held {LOCK} for more than {timeout:g} s; wait for its end, or raise lock_timeout"
                ) from None
            time.sleep(0.05)
