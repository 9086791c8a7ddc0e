# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each odd value in each place of a request, a claim's file and a step: it is carried out, or one short sentence."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterator

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries.persistent_claim import carry_out
from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries.runner import answer
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.steps.catalog import STEPS
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted


def nested(kind: type) -> Any:
    """Lists in lists, or mappings in mappings, beyond what Python's repr can follow."""
    content: Any = kind()
    for _level in range(5000):
        content = [content] if kind is list else {"a": content}
    return content


ODD: Dict[str, Any] = {
    "none": None,
    "true": True,
    "negative": -1,
    "half": 1.5,
    "nan": float("nan"),
    "infinite": float("inf"),
    "of thirty digits": 10**30,
    "of five thousand digits": 10**5000,  # JSON has them before Python 3.11
    "300 characters": "x" * 300,
    "100000 characters": "x" * 100000,
    "arabic digits": "\u0663",
    "superscript": "\u00b2",
    "surrogate": "\ud800",
    "NUL": "\0",
    "empty list": [],
    "empty mapping": {},
    "mapping": {"a": 1},
    "list of lists": [["1"]],
    "list of none": [None],
    "list of nan": [float("nan")],
    "list of huge": [10**5000],
    "deep list": nested(list),
    "deep mapping": nested(dict),
    "list of deep": [nested(list)],
}
BASES: tuple = (
    {"do": "apply", "claim": "vm", "steps": [{"reserve_cpus": {"cpus": "4-7"}}]},
    {"do": "revert", "claims": ["vm"]},
    {"do": "audit"},
)
VALID = {"str": "x", "raw": "1", "list": ["1"], "int": 1, "bool": True}


def requests(odd: Any) -> Iterator[Any]:
    """The requests with an odd value anywhere."""
    yield odd
    for base in BASES:
        yield from ({**base, option: odd} for option in (*base, "check", "lock_timeout", "more"))
    steps = [odd, {"drop_caches": odd, "x": odd}, {"drop_caches": None, "when": odd}]
    if isinstance(odd, str):
        steps += [{odd: {}}, {"drop_caches": {odd: 1}}]
        yield {"do": "audit", odd: 1}
    for name in STEPS:
        spec = STEPS[name].ARGUMENTS
        required = {option: VALID[spec[option]["type"]] for option in spec if spec[option].get("required")}
        steps += [{name: odd}, *({name: {**required, option: odd}} for option in spec)]
    yield from ({"do": "apply", "claim": "vm", "steps": [step]} for step in steps)


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_value_anywhere_in_a_request_is_carried_out_or_refused_in_a_short_sentence(odd: str) -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        for request in requests(ODD[odd]):
            try:
                if json.dumps(answer(request, kernel)):
                    answer({"do": "revert"}, kernel)
            except IsolationError as error:
                assert 0 < len(str(error)) < 2000
            assert kernel.snapshot() == before


@pytest.mark.parametrize("steps", [{}, "", "ab", None, 5, True, {"drop_caches": {}}], ids=repr)
@pytest.mark.parametrize("verb", ["start", "stop"])
def test_the_steps_of_a_claim_s_file_are_a_list(steps: Any, verb: str) -> None:
    path = "/etc/vfio-isolation/claims/x.json"
    with booted() as kernel:
        os.makedirs(os.path.dirname(kernel.root + path))
        with open(kernel.root + path, "w", encoding="utf-8") as stream:
            json.dump({"claim": "x", "steps": steps}, stream)
        with pytest.raises(IsolationError, match=f"^{path}: steps: .* is not a list of steps"):
            carry_out(verb, path, kernel)
