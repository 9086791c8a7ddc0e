# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host runner: what it takes, what it answers."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries.runner import answer
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted

JOB = [{"vfio.isolation.reserve_cpus": {"cpus": "4-7"}}, {"drop_caches": None, "when": "False"}]


def test_a_claim_is_made_told_and_given_back() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        reply = answer({"do": "apply", "claim": "vm", "steps": JOB, "check": True}, kernel)
        assert reply["changed"] and kernel.snapshot() == before
        reply = answer({"do": "apply", "claim": "vm", "steps": JOB}, kernel)
        assert reply["notes"]["vm_cpus"] == "4-7" and reply["prior"]["cgroup.cpus:/machine.slice"] == ""
        assert answer({"do": "audit"}, kernel) == {"claims": ["vm"], "drift": [], "newcomers": []}
        assert not answer({"do": "revert", "claims": ["other"]}, kernel)["changed"]
        assert answer({"do": "revert"}, kernel)["changed"]
        assert kernel.snapshot() == before


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"do": "fly"}, "'fly' is not one of apply, revert, audit"),
        ({"do": "apply", "claim": "x", "steps": [{"reserve_cpus": {}}]}, "reserve_cpus needs cpus"),
        ({"do": "apply", "claim": "x", "steps": [{"drop_caches": {"wat": 1}}]}, "has no option wat"),
    ],
)
def test_a_bad_request_is_one_sentence(request_: dict, words: str) -> None:
    with booted() as kernel, pytest.raises(IsolationError, match=words):
        answer(request_, kernel)
