# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The host runner: the engine without Ansible, one JSON request on standard input, one JSON answer on standard output.

`{"do": "apply", "claim": "win11", "steps": [{"drop_caches": {}}]}`, `{"do": "revert", "claims": ["win11"]}`
(no claims: all), `{"do": "audit"}`; `"check": true` changes nothing. Arguments left out take their defaults.
If it fails, the answer is `{"error": ...}` and the exit code 1.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, Sequence

from ..arguments import validated
from ..errors import IsolationError, quoted, sentence_of
from ..kernel.host import Host
from ..steps.catalog import read_steps
from ..transaction.engine import LOCK_TIMEOUT, Engine, Outcome

LONGEST_TIMEOUT = 3600
VERBS = ("apply", "revert", "audit")
# The options of a request, by its verb.
COMMON: Dict[str, Any] = {
    "do": {"type": "str"},
    "check": {"type": "bool", "default": False},
    "lock_timeout": {"type": "raw", "default": LOCK_TIMEOUT},
}
OPTIONS: Dict[str, Dict[str, Any]] = {
    "apply": {"claim": {"type": "str", "required": True}, "steps": {"type": "list", "required": True}},
    "revert": {"claims": {"type": "list", "elements": "str"}},
    "audit": {},
}


def answer(request: Any, host: Host) -> Dict[str, Any]:
    """Carry out one request. Raises IsolationError."""
    if not isinstance(request, dict):
        raise IsolationError("the request is not a JSON object")
    verb = request.get("do")
    if verb not in VERBS:
        raise IsolationError(f"do: {quoted(verb)} is not one of {', '.join(VERBS)}")
    given = validated(f"the request {verb}", {**COMMON, **OPTIONS[verb]}, request)
    timeout, check = given["lock_timeout"], given["check"]
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 <= timeout <= LONGEST_TIMEOUT:
        raise IsolationError(f"lock_timeout: {quoted(timeout)} is not a number of seconds up to {LONGEST_TIMEOUT}")
    engine = Engine(host, timeout)
    if verb == "apply":
        return _to_result(engine.apply(given["claim"], read_steps(given["steps"]), check))
    if verb == "revert":
        return _to_result(engine.revert(given["claims"], check))
    journal, drift = engine.inspect()
    found = _to_result(drift)
    return {"claims": sorted(journal.claims), "drift": found["changes"], "newcomers": found["newcomers"]}


def _to_result(outcome: Outcome) -> Dict[str, Any]:
    lists = {name: [change._asdict() for change in getattr(outcome, name)] for name in ("changes", "newcomers")}
    return {**outcome._asdict(), **lists, "prior": outcome.prior}


def main(_arguments: Sequence[str] = ()) -> int:
    """The runner's entry point: read a request, carry it out, answer."""
    try:
        request = json.load(sys.stdin)
    except Exception as error:
        return _fail(f"the request cannot be read: {error}")
    try:
        result = json.dumps(answer(request, Host()))  # three times as fast as json.dump
    except Exception as error:  # what was changed is rolled back by then
        return _fail(sentence_of(error))
    sys.stdout.write(result)
    return 0


def _fail(sentence: str) -> int:
    sys.stdout.write(json.dumps({"error": sentence}))
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
