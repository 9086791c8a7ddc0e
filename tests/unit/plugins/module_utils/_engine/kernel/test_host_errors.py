# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What system calls return, as what a person reads; and what is gone is told from what cannot be read."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from pathlib import Path
from typing import Any, ContextManager
from unittest import mock

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError, Refused
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENODEV, errno.ENAMETOOLONG)
UNREADABLE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM)


def fail(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Have every system call that opens something fail."""

    def failing(path: str, *_more: Any, **_options: Any) -> Any:
        raise OSError(code, os.strerror(code), path)

    for name in ("open", "listdir", "scandir", "lstat"):
        monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize(
    "code", [*GONE, *UNREADABLE, errno.EIO, errno.ENXIO, errno.EOPNOTSUPP, errno.EBUSY, errno.EINVAL]
)
def test_what_is_gone_is_told_from_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Whoever takes for gone what only cannot be read forgets the value that it had."""
    host = FakeHost(str(tmp_path), {"/proc/1/task/1": "", "/run/lock": ""})
    with monkeypatch.context() as patch:
        fail(patch, code)
        for listing, none in ((host.list, []), (host.directories, None)):
            if code in GONE:
                assert listing("/proc/1/task") == none
            else:
                with pytest.raises(IsolationError, match=rf"^/proc/1/task cannot be listed: .*{errno.errorcode[code]}"):
                    listing("/proc/1/task")
        if code in UNREADABLE:
            with pytest.raises(IsolationError, match=rf"^/proc/1/task/1 cannot be read: .*{errno.errorcode[code]}"):
                host.read("/proc/1/task/1")
        else:
            assert host.read("/proc/1/task/1") is None
        assert host.mode("/proc/1/task/1") == (None if code in GONE else -1)
        with pytest.raises(IsolationError, match=rf"^/run/lock cannot be locked: .*{errno.errorcode[code]}"):
            enter(host.locked("/run/lock", 0))


def enter(context: ContextManager[None]) -> None:
    """Enter a context, and leave it."""
    with context:
        pass


@pytest.mark.parametrize("reading", ["read", "list", "directories", "read_own"])
def test_a_process_without_a_descriptor_left_takes_nothing_for_gone(tmp_path: Path, reading: str) -> None:
    host = FakeHost(str(tmp_path), {"/x/y": ""})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(IsolationError, match=r"Too many open files \(EMFILE\)"):
            getattr(host, reading)("/x/y" if reading.startswith("read") else "/x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_is_not_root_is_told_so(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/x/y": ""})
    os.chmod(tmp_path, 0o700)
    os.seteuid(65534)
    try:
        for call in (host.read, host.read_own, host.list, host.directories, lambda path: enter(host.locked(path))):
            with pytest.raises(IsolationError, match="isolation needs root on the host"):
                call("/x/y")
    finally:
        os.seteuid(0)


def test_a_pipe_in_the_place_of_a_file_of_ours_is_not_waited_for(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/x/y": ""})
    for path in ("/x/pipe", "/x/y.new"):
        os.mkfifo(host.path(path))
    with pytest.raises(IsolationError, match="/x/pipe is not a file"):
        host.read_own("/x/pipe")
    host.keep("/x/pipe")()
    with pytest.raises(Refused, match=r"/x/y\.new refused"):
        host.save("/x/y", "")
    host.save("/x/y", "text")
    assert host.read("/x/y") == "text" and host.list("/x") == ["pipe", "y"]


def test_a_daemon_that_never_answers_is_said_to_have_timed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a timeout has no number."""
    host = FakeHost(str(tmp_path), {})
    monkeypatch.setattr(socket.socket, "connect", mock.Mock(side_effect=socket.timeout("timed out")))
    with pytest.raises(Refused, match=r"refused 'setup': timed out$"):
        host.converse("/run/x.sock", "setup")


def test_a_replaced_file_is_durable_and_so_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, synced, fsync = FakeHost(str(tmp_path), {"/x/y": "old"}), [], os.fsync

    def record(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), host.read("/x/y")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    host.save("/x/y", "new")
    assert synced == [(host.path("/x/y.new"), "old"), (host.path("/x"), "new")]


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_a_directory_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fails: bool
) -> None:
    host, fsync = FakeHost(str(tmp_path), {"/x/y": ""}), os.fsync

    def refuse(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, "")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    if fails:
        with pytest.raises(Refused, match=r"^/x/y refused .*\(EIO\)"):
            host.save("/x/y", "new")
    else:
        host.save("/x/y", "new")


@pytest.mark.parametrize(
    ("effective", "user", "said"),
    [
        ("000001ffffffffff", 0, ""),
        ("0000000000800000", 1000, ""),
        ("000001ffff7fffff", 0, "only with CAP_SYS_NICE"),
        ("00000000a80425fb", 0, "only with CAP_SYS_NICE"),  # as Docker has it
        ("0000000000000000", 1000, "needs root"),
    ],
)
def test_who_may_bind_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effective: str, user: int, said: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    host = FakeHost(str(tmp_path), {"/proc/self/status": f"CapPrm:\t0\nCapEff:\t{effective}\nCapBnd:\t0\n"})
    with pytest.raises(IsolationError, match=said) if said else contextlib.nullcontext():
        host.check_may_bind()
