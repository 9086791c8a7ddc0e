# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults and time limits at the doors without Ansible: one sentence, an exit code, nothing half done."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import syslog
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import List
from unittest import mock

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries import (
    libvirt_hook,
    persistent_claim,
    runner,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import TimeLimit
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.events import Event
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import LIBVIRT
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine

FAULTS = (KeyError("x"), TypeError("x"), RecursionError("x"), MemoryError("x"), OSError(5, "x"), TimeLimit("x"))
ANY_FAULT = pytest.mark.parametrize("error", FAULTS, ids=repr)


@ANY_FAULT
def test_a_fault_in_the_runner_is_an_answer(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "inspect", mock.Mock(side_effect=error))
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"do": "audit"})))
    said = io.StringIO()
    with redirect_stdout(said):
        assert runner.main() == 1
    (sentence,) = json.loads(said.getvalue()).values()
    assert sentence == "x" if isinstance(error, TimeLimit) else sentence.startswith(f"{type(error).__name__}: ")


def test_a_runner_without_standard_input_answers_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    said = io.StringIO()
    with redirect_stdout(said):
        assert runner.main() == 1
    assert "the request cannot be read" in json.loads(said.getvalue())["error"]


@ANY_FAULT
def test_a_fault_in_a_unit_is_a_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent_claim, "carry_out", mock.Mock(side_effect=error))
    complained = io.StringIO()
    with redirect_stderr(complained):
        assert persistent_claim.main(["start", "/x"]) == 1
    assert complained.getvalue().count("\n") == 1


def configured(root: Path, required: bool) -> None:
    """All domains are, with a time limit of one second."""
    for path, text in ((LIBVIRT.default, json.dumps({"required": required, "timeout": 1})), (LIBVIRT.lock, "")):
        os.makedirs(os.path.dirname(f"{root}{path}"))
        Path(f"{root}{path}").write_text(text, encoding="utf-8")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    lines: List[str] = []
    monkeypatch.setattr(syslog, "syslog", lambda _priority, line: lines.append(line))
    return lines


@pytest.mark.parametrize("required", [True, False])
@ANY_FAULT
def test_a_fault_in_the_hook_stops_the_domains_that_require_isolation(
    tmp_path: Path, logged: List[str], monkeypatch: pytest.MonkeyPatch, error: Exception, required: bool
) -> None:
    configured(tmp_path, required)
    monkeypatch.setattr(Event, "carry_out", mock.Mock(side_effect=error))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    complained = io.StringIO()
    with redirect_stderr(complained):
        assert libvirt_hook.main(["one", "prepare", "begin", "-"], str(tmp_path)) == int(required)
    assert len(logged) == 1 and complained.getvalue().count("\n") == int(required)


@pytest.mark.parametrize("is_configured", [True, False])
def test_a_hook_that_cannot_even_begin_stops_only_domains_that_are_configured(
    tmp_path: Path, logged: List[str], monkeypatch: pytest.MonkeyPatch, is_configured: bool
) -> None:
    """As with half an installation, or without standard input."""
    configured(tmp_path, True)
    if not is_configured:
        os.unlink(f"{tmp_path}{LIBVIRT.default}")
    monkeypatch.setattr(sys, "stdin", None)
    with redirect_stderr(io.StringIO()):
        assert libvirt_hook.main(["one", "prepare", "begin", "-"], str(tmp_path)) == int(is_configured)
        assert libvirt_hook.main(["one", "started", "begin", "-"], str(tmp_path)) == 0
    assert len(logged) == 2


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("operation", ["prepare", "release"])
def test_rolling_back_is_bounded_too_and_only_the_configuration_stops_a_domain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, required: bool
) -> None:
    configured(tmp_path, required)

    def carry_out(_event: Event) -> List[str]:
        try:
            time.sleep(30)
        except TimeLimit:
            try:
                time.sleep(30)  # rolling back takes long
            except Exception:
                time.sleep(30)
        return []

    child = os.fork()
    if not child:
        monkeypatch.setattr(Event, "carry_out", carry_out)
        monkeypatch.setattr(signal, "alarm", lambda seconds: signal.setitimer(signal.ITIMER_REAL, bool(seconds) * 0.2))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        os._exit(
            libvirt_hook.main(["one", operation, "end" if operation == "release" else "begin"], str(tmp_path)) + 40
        )
    _child, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status), f"killed by signal {os.WTERMSIG(status)}"
    assert os.WEXITSTATUS(status) == int(required and operation == "prepare")
