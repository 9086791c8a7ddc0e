# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any request to the host runner: one answer in JSON, or one sentence."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from typing import Any
from unittest import mock

from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries.runner import answer, main
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import (
    changed_json,
    changed_text,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

REQUESTS = (
    {"do": "apply", "claim": "vm", "steps": [{"reserve_cpus": {"cpus": "4-7"}}, {"drop_caches": None}], "check": True},
    {"do": "apply", "claim": "vm", "steps": [{"cpu_governor": {"governor": "performance"}}], "lock_timeout": 0.1},
    {"do": "revert", "claims": ["vm", "other"], "check": False},
    {"do": "audit"},
)


def is_answered_or_refused(request: Any) -> None:
    """And what is answered can be written as JSON."""
    with booted() as kernel:
        before = kernel.snapshot()
        try:
            json.dumps(answer(request, kernel))
        except IsolationError as error:
            assert str(error) and kernel.snapshot() == before


@given(st.sampled_from(REQUESTS).flatmap(changed_json))
def test_any_request(request_: Any) -> None:
    is_answered_or_refused(json.loads(json.dumps(request_)))


@given(values())
def test_anything_for_a_request(request_: Any) -> None:
    is_answered_or_refused(request_)


@given(
    changed_text(json.dumps({"do": "fly"})).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.binary(max_size=20)
)
def test_any_standard_input(text: bytes) -> None:
    said = io.StringIO()
    with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8")), redirect_stdout(said):
        assert main() == 1
    assert set(json.loads(said.getvalue())) == {"error"}
