# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one door to the host, on real files."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError, Refused
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.command import run_command
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost


def test_reading_takes_the_last_newline_off_and_what_is_not_there_is_none(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/proc/a": "1\n2\n"})
    assert host.read("/proc/a") == "1\n2"
    assert host.read("/proc/b") is None
    assert host.read("/proc") is None


def test_writing_is_one_line_and_is_counted(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/sys/x": ""})
    host.write("/sys/x", "0-3")
    assert host.read("/sys/x") == "0-3"
    assert host.writes == 1 and host.log == ["/sys/x = 0-3"]


def test_a_refused_write_names_file_value_and_errno_and_is_not_counted(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {})
    with pytest.raises(Refused) as error:
        host.write("/sys/x", "0-3")
    assert str(error.value) == "/sys/x refused '0-3': No such file or directory (ENOENT)"
    assert host.writes == 0


def test_saving_replaces_the_file_whole_with_its_mode(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {})
    host.save("/run/x/y", "new\n", 0o600)
    assert host.read("/run/x/y") == "new" and host.list("/run/x") == ["y"]
    assert os.stat(str(tmp_path) + "/run/x/y").st_mode & 0o777 == 0o600


def test_removing_what_is_not_there_is_no_write(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/run/x/y": ""})
    host.remove_empty("/run/x")
    host.remove("/run/x/nothing")
    assert host.writes == 0
    host.remove("/run/x/y")
    host.remove_empty("/run/x")
    assert host.writes == 2 and not host.exists("/run/x")


def test_a_refused_removal_is_a_sentence_too(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/run/x/y": ""})
    host.remove("/run/x/y/z")
    with pytest.raises(Refused, match="/run/x refused 'its removal': "):
        host.remove("/run/x")
    assert host.writes == 0


@pytest.mark.parametrize("content", [b"", b"no end", b"two\n\n", b"\xff\r\n\0"])
def test_what_is_kept_of_a_file_is_every_byte_and_its_mode(tmp_path: Path, content: bytes) -> None:
    host = FakeHost(str(tmp_path), {"/x/y": ""})
    (tmp_path / "x" / "y").write_bytes(content)
    os.chmod(tmp_path / "x" / "y", 0o604)
    put_back = host.keep("/x/y")
    for replaced in (lambda: host.save("/x/y", "new", 0o755), lambda: host.remove("/x/y"), lambda: None):
        replaced()
        put_back()
        assert (tmp_path / "x" / "y").read_bytes() == content
        assert host.mode("/x/y") == 0o604 and host.list("/x") == ["y"]


def test_what_is_kept_may_be_a_link_or_nothing(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/x/y": "", "/x/z/a": ""})
    os.symlink("nowhere", host.path("/x/link"))
    kept = [host.keep(path) for path in ("/x/link", "/x/none", "/x/y/none")]
    host.save("/x/link", "a file")
    host.save("/x/none", "a file")
    for put_back in kept:
        put_back()
    assert os.readlink(host.path("/x/link")) == "nowhere" and not os.path.lexists(host.path("/x/none"))
    host.keep("/x/z")()
    assert host.list("/x/z") == ["a"]


def test_a_failing_command_is_refused_with_what_it_printed(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {})
    host.answers["start"] = (5, "", "Unit x.slice not found.\n")
    with pytest.raises(Refused, match=r"systemctl start -- refused 'x.slice': Unit x.slice not found."):
        host.change("systemctl", "start", "--", "x.slice")
    assert host.writes == 0
    assert host.ask("systemctl", "start") is None


def test_a_command_is_run_with_its_streams_apart() -> None:
    shell = ["sh", "-c", "cat; echo out; echo err >&2; exit 3"]
    assert run_command(shell) == (3, "out\n", "err\n")
    assert run_command(["sh", "-c", "kill -9 $$"]) == (-9, "", "")
    assert run_command(["head", "-c", "300000", "/dev/zero"])[1] == "\0" * 300000
    with pytest.raises(FileNotFoundError):
        run_command(["/no/such/command"])


def test_a_command_ends_with_the_run_that_waits_for_it(tmp_path: Path) -> None:
    """A time limit leaves no process behind."""

    def expired(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expired)
    once_it_waits = "until grep -q '^State:.S' /proc/$PPID/status; do :; done; kill -ALRM $PPID"
    try:
        with pytest.raises(TimeoutError):
            run_command(["sh", "-c", f"echo $$ > {tmp_path}/pid; {once_it_waits}; exec sleep 1000"])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


@pytest.mark.parametrize(("file", "directory"), [(0o666, 0o755), (0o620, 0o755), (0o644, 0o777), (0o600, 0o770)])
def test_a_file_that_others_may_write_is_not_read(tmp_path: Path, file: int, directory: int) -> None:
    host = FakeHost(str(tmp_path), {"/etc/x/y": "text\n"})
    os.chmod(host.path("/etc/x"), 0o755)
    os.chmod(host.path("/etc/x/y"), 0o644)
    assert host.read_own("/etc/x/y") == "text\n"
    assert host.read_own("/etc/x/z") is None and host.read_own("/etc/x/y/z") is None
    os.chmod(host.path("/etc/x/y"), file)
    os.chmod(host.path("/etc/x"), directory)
    with pytest.raises(IsolationError, match="/etc/x/y: users other than root may write it"):
        host.read_own("/etc/x/y")


def test_modes_are_of_files_of_our_own(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/x/y": ""})
    os.chmod(host.path("/x/y"), 0o640)
    os.symlink("y", host.path("/x/link"))
    assert [host.mode(path) for path in ("/x/y", "/x/link", "/x", "/x/none", "/x/y/z")] == [0o640, -1, -1, None, None]


def test_saving_sets_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        FakeHost(str(tmp_path), {}).save("/x", "", 0o755)
    finally:
        os.umask(before)
    assert os.stat(tmp_path / "x").st_mode & 0o777 == 0o755


def test_what_is_no_file_cannot_be_removed_as_one(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/x/y/z": ""})
    with pytest.raises(Refused, match="/x/y refused 'its removal': Is a directory"):
        host.remove("/x/y")
    assert host.log == []


def test_a_lock_is_held_by_one_at_a_time_and_let_go_whatever_happens(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {})
    with host.locked("/run/x/lock", 1), pytest.raises(TimeoutError), host.locked("/run/x/lock", 0):
        pytest.fail("two hold it")
    with pytest.raises(ZeroDivisionError), host.locked("/run/x/lock", 0):
        raise ZeroDivisionError
    with host.locked("/run/x/lock", 0), host.locked("/run/x/other", 0):
        assert host.list("/run/x") == ["lock", "other"]
    assert os.stat(tmp_path / "run" / "x").st_mode & 0o077 == 0
    assert os.stat(tmp_path / "run" / "x" / "lock").st_mode & 0o077 == 0
    assert host.writes == 0


def test_a_lock_without_a_limit_is_waited_for(tmp_path: Path) -> None:
    host, order = FakeHost(str(tmp_path), {}), []

    def wait() -> None:
        with host.locked("/run/x/lock"):
            order.append("second")

    with host.locked("/run/x/lock"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]


def test_a_lock_in_a_directory_that_cannot_be_made_is_no_lock(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/run": ""})
    with pytest.raises(IsolationError, match="/run/x/lock cannot be locked"), host.locked("/run/x/lock", 0):
        pytest.fail("nothing is locked")


@pytest.mark.parametrize(("text", "release"), [("6.1.0-40-amd64\n", "6.1.0-40-amd64"), (None, "")])
def test_the_kernel_s_release_is_that_of_the_host(tmp_path: Path, text: Optional[str], release: str) -> None:
    assert FakeHost(str(tmp_path), {"/proc/sys/kernel/osrelease": text} if text else {}).kernel_release() == release


@contextlib.contextmanager
def daemon(address: str) -> Iterator[List[Tuple[bytes, Tuple[int, ...]]]]:
    """A daemon that answers `hello` and tells what it was told, and by whom."""
    heard: List[Tuple[bytes, Tuple[int, ...]]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(1)
        listener.settimeout(30)

        def serve() -> None:
            connection, _address = listener.accept()
            with connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                message, extra, _flags, _sender = connection.recvmsg(1024, socket.CMSG_SPACE(12))
                heard.append((message, *(struct.unpack("3i", data) for _level, _kind, data in extra)))
                with contextlib.suppress(BrokenPipeError):  # nobody listens
                    connection.sendall(b"hello \xff")

        serving = threading.Thread(target=serve)
        serving.start()
        yield heard
        serving.join(30)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_daemon_is_spoken_to_with_our_credentials(tmp_path: Path, abstract: bool) -> None:
    name = f"test{os.getpid()}.sock"
    host = FakeHost(str(tmp_path), {"/run/d/keep": ""})
    with daemon(f"\0{name}" if abstract else host.path(f"/run/d/{name}")) as heard:
        assert host.converse(f"/run/d/{name}", "setup") == "hello \ufffd"
    assert heard == [(b"setup", (os.getpid(), os.getuid(), os.getgid()))]
    assert host.writes == 0


def test_a_daemon_that_answers_nothing_is_not_waited_for(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/run/d/keep": ""})
    with daemon(host.path("/run/d/x.sock")) as heard:
        assert host.converse("/run/d/x.sock", "settings cpus 1", answers=False) == ""
    assert heard[0][0] == b"settings cpus 1"


def test_a_daemon_that_is_not_there_refuses(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/run/d/file.sock": ""})
    for path in ("/run/d/file.sock", f"/run/d/none{os.getpid()}.sock"):
        with pytest.raises(Refused, match=rf"{path} refused 'setup': .*ECONNREFUSED"):
            host.converse(path, "setup")
