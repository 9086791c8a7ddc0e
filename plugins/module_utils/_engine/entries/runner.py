# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The host runner: the engine without Ansible, one JSON request on standard input, one JSON answer on standard output.

`{"do": "apply", "claim": "win11", "steps": [{"drop_caches": {}}]}`, `{"do": "revert", "claims": ["win11"]}`
(no claims: all), `{"do": "audit"}`; `"check": true` changes nothing. Arguments left out take their defaults.
Exit code 1 and `{"error": ...}` where it fails.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, Sequence

from ..errors import IsolationError
from ..kernel.host import Host
from ..steps.catalog import read_steps
from ..transaction.engine import LOCK_TIMEOUT, Engine, Outcome


def answer(request: Dict[str, Any], host: Host) -> Dict[str, Any]:
    """Carry out one request. Raises IsolationError."""
    engine = Engine(host, float(request.get("lock_timeout", LOCK_TIMEOUT)))
    check = bool(request.get("check", False))
    verb = request.get("do")
    if verb == "apply":
        return _to_result(engine.apply(request["claim"], read_steps(request["steps"]), check))
    if verb == "revert":
        return _to_result(engine.revert(request.get("claims"), check))
    if verb == "audit":
        journal, drift = engine.inspect()
        return {"claims": sorted(journal.claims), "drift": _to_result(drift)["changes"]}
    raise IsolationError(f"do: {verb!r} is none of apply, revert, audit")


def _to_result(outcome: Outcome) -> Dict[str, Any]:
    return {**outcome._asdict(), "changes": [change._asdict() for change in outcome.changes], "prior": outcome.prior}


def main(_arguments: Sequence[str] = ()) -> int:
    """Read, carry out, answer."""
    try:
        told = json.dumps(answer(json.load(sys.stdin), Host()))  # three times as fast as json.dump
    except IsolationError as error:
        sys.stdout.write(json.dumps({"error": str(error)}))
        return 1
    sys.stdout.write(told)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
