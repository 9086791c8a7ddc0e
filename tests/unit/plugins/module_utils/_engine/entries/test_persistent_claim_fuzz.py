# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file of a claim that persists, as anybody may have written it: the claim is made, or it is said what is wrong."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries.persistent_claim import carry_out, main
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import (
    changed_json,
    changed_text,
    texts,
)
from hypothesis import given
from hypothesis import strategies as st

PATH = "/etc/vfio-isolation/claims/host.json"
CLAIM = {"claim": "host", "steps": [{"reserve_cpus": {"cpus": "4-7"}}, {"irq_affinity": {"cpus": "4-7"}, "when": True}]}


def is_made_or_refused(text: str) -> None:
    """The unit starts and stops."""
    with booted() as kernel:
        os.makedirs(os.path.dirname(kernel.root + PATH))
        with open(kernel.root + PATH, "wb") as stream:
            stream.write(text.encode("utf-8", "surrogatepass"))
        before = kernel.snapshot()
        for verb in ("start", "stop"):
            try:
                outcome = carry_out(verb, PATH, kernel)
                "\n".join(outcome.warnings).encode()  # standard output takes no lone surrogate
            except IsolationError as error:
                assert str(error) and kernel.snapshot() == before
        assert kernel.snapshot() == before


@given(changed_json(CLAIM))
def test_any_content(content: Any) -> None:
    is_made_or_refused(json.dumps(content))


@given(changed_text(json.dumps(CLAIM)) | texts())
def test_any_text(text: str) -> None:
    is_made_or_refused(text)


@pytest.mark.parametrize("claim", [5, None, [], {}, ["host"], True, "", " ", "a\nb", "\ud800", "x" * 256])
@pytest.mark.parametrize("verb", ["start", "stop"])
def test_a_claim_that_is_no_name_is_said(claim: Any, verb: str) -> None:
    with booted() as kernel:
        os.makedirs(os.path.dirname(kernel.root + PATH))
        with open(kernel.root + PATH, "w", encoding="utf-8") as stream:
            json.dump({**CLAIM, "claim": claim}, stream)
        with pytest.raises(IsolationError):
            carry_out(verb, PATH, kernel)
        assert kernel.log == []


WORDS = st.sampled_from(["start", "/no/such/file"]) | texts()


@given(st.lists(WORDS.filter(lambda word: "\0" not in word), max_size=3))
def test_any_arguments(arguments: List[str]) -> None:
    said, complained = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complained):
        assert main(arguments) == 1
    assert complained.getvalue() and not said.getvalue()
