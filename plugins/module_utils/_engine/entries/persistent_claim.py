# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What the unit vfio-isolation@CLAIM.service runs: `start FILE` applies the claim in a file, `stop FILE` reverts it."""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, Sequence

from ..arguments import check_claim
from ..errors import IsolationError, sentence_of
from ..kernel.host import Host
from ..steps.catalog import read_steps
from ..transaction.engine import Engine, Outcome

VERBS = ("start", "stop")
STOP_LOCK_TIMEOUT = 600.0  # seconds: a claim that is not reverted is worse than one that is reverted late


def main(arguments: Sequence[str]) -> int:
    """The unit's entry point; what it prints is in the systemd journal."""
    try:
        if len(arguments) != 2 or arguments[0] not in VERBS:
            raise IsolationError(f"expected {' or '.join(VERBS)} and the file of a claim, not {list(arguments)}")
        verb, path = arguments
        outcome = carry_out(verb, path, Host())
    except Exception as error:  # what was changed is rolled back by then
        sys.stderr.write(f"{sentence_of(error)}\n")
        return 1
    for line in [f"{len(outcome.changes)} settings changed", *outcome.warnings]:
        sys.stdout.write(f"{line}\n")
    return 0


def carry_out(verb: str, path: str, host: Host) -> Outcome:
    """Apply the claim in a file, or revert it. Raises IsolationError."""
    text = host.read_own(path)
    if text is None and verb == "stop":
        return Outcome(False, [], {}, {}, {}, [f"the file {path} no longer exists, so its claim stays as it is"])
    if text is None:
        raise IsolationError(f"there is no file {path}")
    try:
        content: Dict[str, Any] = json.loads(text)
        claim, steps = check_claim(content["claim"]), read_steps(content["steps"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IsolationError(f"{path} does not contain a claim ({type(error).__name__}: {error})") from None
    except IsolationError as error:
        raise IsolationError(f"{path}: {error}") from None
    if verb == "start":
        return Engine(host).apply(claim, steps)
    return Engine(host, STOP_LOCK_TIMEOUT).revert([claim], created_by="")
