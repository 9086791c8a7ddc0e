# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A user's own libvirt (qemu:///session) runs the same hook, as that user, and starts whatever is configured."""

from __future__ import annotations

import io
import os
import sys
import syslog
from contextlib import redirect_stderr
from pathlib import Path
from typing import List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries import libvirt_hook
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import LIBVIRT

ROOT, SOMEBODY = 0, 1000


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    lines: List[str] = []
    monkeypatch.setattr(syslog, "syslog", lambda _priority, line: lines.append(line))
    return lines


@pytest.fixture(autouse=True)
def _host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This host: every domain must be isolated, and none can be, as the configuration is spoilt."""
    (tmp_path / "domains").mkdir()
    (tmp_path / "default.json").write_text("{", encoding="utf-8")
    (tmp_path / "libvirt.lock").touch()
    monkeypatch.setattr(LIBVIRT, "machines", str(tmp_path / "domains"))
    monkeypatch.setattr(LIBVIRT, "default", str(tmp_path / "default.json"))
    monkeypatch.setattr(LIBVIRT, "lock", str(tmp_path / "libvirt.lock"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"<domain><name>one</name></domain>")))


@pytest.mark.parametrize(("user", "code"), [(ROOT, 1), (SOMEBODY, 0)])
def test_only_domains_of_the_host_are_kept_from_starting(
    logged: List[str], monkeypatch: pytest.MonkeyPatch, user: int, code: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    complained = io.StringIO()
    with redirect_stderr(complained):
        assert libvirt_hook.main(["one", "prepare", "begin", "-"]) == code
    assert complained.getvalue().count("\n") == len(logged) == code
    assert complained.getvalue().startswith("vfio-isolation: 'one': prepare: ") == bool(code)


@pytest.mark.parametrize(("operation", "sub"), [("prepare", "begin"), ("started", "begin"), ("release", "end")])
def test_no_event_of_a_user_s_domain_begins(
    logged: List[str], monkeypatch: pytest.MonkeyPatch, operation: str, sub: str
) -> None:
    begun: List[str] = []

    def carry_out(title: str, *_given: object) -> int:
        begun.append(title)
        return 1

    monkeypatch.setattr(libvirt_hook, "carry_out", carry_out)
    for user, code in ((SOMEBODY, 0), (ROOT, 1)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert libvirt_hook.main(["one", operation, sub, "-"]) == code
    assert begun == [f"'one': {operation}"] and logged == []


def test_below_another_root_any_user_may_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_hook, "carry_out", lambda *_given: 1)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    os.makedirs(f"{tmp_path}{LIBVIRT.machines}")
    Path(f"{tmp_path}{LIBVIRT.file('one')}").touch()
    assert libvirt_hook.main(["one", "prepare", "begin", "-"], str(tmp_path)) == 1
