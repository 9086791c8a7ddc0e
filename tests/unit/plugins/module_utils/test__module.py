# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module's run: its result, one sentence if it fails, and what it keeps for the next run."""

from __future__ import annotations

import errno
import os
from typing import Any, Dict, List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils import _module
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError, Refused
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.host import Host
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import JOURNAL
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted


class Exit(Exception):
    """What a module exits with."""


class FakeModule:
    """AnsibleModule, as far as `run` needs it."""

    check_mode = False

    def __init__(self, **_given: Any) -> None:
        self.params = {"lock_timeout": 1.0}

    def exit_json(self, **result: Any) -> None:
        raise Exit(result)

    def fail_json(self, **result: Any) -> None:
        raise Exit({"failed": True, **result})


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> List[bool]:
    """Each time that what was compiled is saved."""
    found: List[bool] = []
    monkeypatch.setattr(_module, "AnsibleModule", FakeModule)
    monkeypatch.setattr(_module.cache, "save", lambda: found.append(True))
    return found


def result_of(call: Any) -> Dict[str, Any]:
    """What a module with this call exits with."""
    with pytest.raises(Exit) as exit_:
        _module.run({}, call)
    (result,) = exit_.value.args
    return dict(result)


@pytest.mark.parametrize("result", [{"ansible_facts": {}}, {"changed": False}, {"changed": True}])
@pytest.mark.parametrize("claimed", [True, False])
@pytest.mark.parametrize("check", [True, False])
def test_what_was_compiled_is_saved_by_a_run_that_changes_a_host_with_claims(
    result: Dict[str, Any], claimed: bool, check: bool, saves: List[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    with booted() as kernel:
        if claimed:
            os.makedirs(os.path.dirname(kernel.root + JOURNAL))
            open(kernel.root + JOURNAL, "w", encoding="utf-8").close()
        monkeypatch.setattr(_module, "Engine", lambda _host, timeout: Engine(kernel, timeout))
        monkeypatch.setattr(FakeModule, "check_mode", check)
        assert result_of(lambda _module, _engine: result) == result
    assert saves == ([True] if result.get("changed") and claimed and not check else [])


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("x"), MemoryError("x"), OSError(5, "x")], ids=repr)
def test_a_fault_is_one_sentence_and_its_traceback_is_kept_to_report_it(error: Exception, saves: List[bool]) -> None:
    def fail(_module: Any, _engine: Engine) -> Any:
        raise error

    def fail_and_roll_back(_module: Any, _engine: Engine) -> Any:
        try:
            raise error
        except Exception as first:
            raise IsolationError("rolled back") from first

    for call, words in ((fail, f"{type(error).__name__}: "), (fail_and_roll_back, "rolled back")):
        result = result_of(call)
        assert result["failed"] and result["msg"].startswith(words) and "in fail" in result["exception"]
    assert saves == []


def test_an_engine_that_cannot_even_be_made_is_a_sentence(saves: List[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_host: Host, _timeout: float) -> Engine:
        raise IsolationError("/proc/self/mountinfo cannot be read")

    monkeypatch.setattr(_module, "Engine", broken)
    assert result_of(lambda _module, _engine: {}) == {"failed": True, "msg": "/proc/self/mountinfo cannot be read"}
    assert saves == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_what_the_kernel_refuses_is_no_fault_of_ours(code: int, saves: List[bool]) -> None:
    def fail(_module: Any, _engine: Engine) -> Any:
        try:
            raise OSError(code, "no")
        except OSError as error:
            raise Refused.of(error, "/x", "1") from error

    assert set(result_of(fail)) == {"failed", "msg"} and saves == []


def test_what_fails_is_one_sentence(saves: List[bool]) -> None:
    def fail(_module: Any, engine: Engine) -> Any:
        assert isinstance(engine.host, Host)
        raise IsolationError("no")

    assert result_of(fail) == {"failed": True, "msg": "no"}
    assert saves == []
