# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""irqbalance's socket, with a listener in its place."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from pathlib import Path
from typing import Iterator, List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.irqbalance import Irqbalance
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost


class Listener:
    """Answers `setup` with a ban, and keeps what it was told."""

    def __init__(self, path: Path, banned: str) -> None:
        self._received: List[str] = []
        self._path = str(path)
        self.banned = banned
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self._path)
        self._socket.listen(4)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            with connection:
                message = connection.recv(1024).decode()
                self._received.append(message)
                if message == "setup":
                    connection.sendall(f"SLEEP 10 BANNED {self.banned}".encode())

    @property
    def received(self) -> List[str]:
        """What it was told up to now: a message of our own is served after all that came before it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(self._path)
            connection.sendall(b"up to now")
            assert not connection.recv(1)
        return [message for message in self._received if message != "up to now"]

    def close(self) -> None:
        """Stop listening."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture(name="short")
def _short() -> Iterator[Path]:
    """A directory whose name is short: that of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def test_a_ban_is_sent_and_counts_until_irqbalance_shows_it(short: Path) -> None:
    pid = os.getpid()
    stat = f"{pid} (irqbalance) " + " ".join(["S"] + ["0"] * 18 + ["777"] + ["0"] * 20)
    host = FakeHost(str(short), {f"/proc/{pid}/stat": stat, "/run/vfio-isolation/keep": ""})
    (short / "run" / "irqbalance").mkdir(parents=True)
    listener = Listener(short / "run" / "irqbalance" / f"irqbalance{pid}.sock", "000000f0")
    try:
        irqbalance = Irqbalance(host)
        name = irqbalance.running()
        assert name == f"{pid}:777"
        assert irqbalance.read(name) == "4-7"
        irqbalance.write(name, "2-7")
        assert irqbalance.read(name) == "2-7"
        assert "settings cpus 2-7 " in listener.received
        irqbalance.write(name, "")
        assert listener.received[-1] == "settings cpus NULL "
        assert irqbalance.read(name) == ""
        assert irqbalance.read("1:1") is None
    finally:
        listener.close()


def test_without_irqbalance_there_is_nothing_to_ban(tmp_path: Path) -> None:
    assert Irqbalance(FakeHost(str(tmp_path), {})).running() is None


def test_one_without_a_socket_that_has_a_name_is_known_by_its_process(tmp_path: Path) -> None:
    others = {"/proc/4/comm": "bash\n", "/proc/self/comm": "irqbalance\n", "/proc/50/comm": "irqbalance2\n"}
    assert Irqbalance(FakeHost(str(tmp_path / "without"), others)).nameless() is None
    unix = "Num RefCount Protocol Flags Type St Inode Path\n0: 00000002 00000000 00010000 0001 01 1 " + "@" * 108 + "\n"
    host = FakeHost(str(tmp_path / "with"), {**others, "/proc/60/comm": "irqbalance\n", "/proc/net/unix": unix})
    assert Irqbalance(host).running() is None and Irqbalance(host).nameless() == 60


def test_one_that_does_not_answer_says_nothing_of_its_ban(tmp_path: Path) -> None:
    stat = "5 (irqbalance) " + " ".join(["S"] + ["0"] * 18 + ["777"] + ["0"] * 30)
    host = FakeHost(str(tmp_path), {"/proc/5/stat": stat, "/run/irqbalance/irqbalance5.sock": ""})
    assert Irqbalance(host).read("5:777") == "?"


@pytest.mark.parametrize("number", ["²", "٣", "5²"])
def test_a_socket_with_what_only_looks_like_a_number_is_not_irqbalance_s(tmp_path: Path, number: str) -> None:
    stat = "5 (irqbalance) " + " ".join(["S"] + ["0"] * 18 + ["777"] + ["0"] * 30)
    files = {"/proc/net/unix": f"0: 2 0 1 @irqbalance{number}.sock", f"/run/irqbalance/irqbalance{number}.sock": ""}
    host = FakeHost(str(tmp_path), {"/proc/5/stat": stat, f"/proc/{number}/stat": stat, **files})
    assert Irqbalance(host).running() is None
    host.put("/run/irqbalance/irqbalance5.sock", "")
    assert Irqbalance(host).running() == "5:777"
    assert not Irqbalance(host).valid_name(f"{number}:777") and not Irqbalance(host).valid_name(f"5:{number}")
