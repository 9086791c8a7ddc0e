# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One named virtual host: start it, reach it, stop it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .console import not_installed, say
from .errors import VirtualHostError
from .image import Image, build
from .lock import lock
from .machine import CONSOLE_LOG, PID_FILE, QEMU, qemu_command
from .process import end, is_running, signals_deferred
from .recipe import DEFAULT_SUITE

BOOT_SECONDS = 240
"""Time limit of one boot. Without KVM, on two idle cores, one takes about 25 s."""

_BOOTS = 2
_LAUNCHES = 5


@dataclass(frozen=True)
class _State:
    """What a running host was started with."""

    image: str
    cmdline: str
    port: int


class VirtualHost:
    """A virtual host by its name, whether it runs or not."""

    def __init__(self, name: str = "default") -> None:
        """Name a host: 1 to 32 letters, digits, `_` and `-`."""
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}", name):
            message = f"{name!r} cannot name a virtual host: use 1 to 32 letters, digits, '_' and '-'."
            raise VirtualHostError(message)
        self.name = name
        self.directory = _run_root() / name
        self.inventory = self.directory / "inventory.ini"
        self.console_log = self.directory / CONSOLE_LOG
        self._pid_file = self.directory / PID_FILE
        self._state_file = self.directory / "state.json"
        self._key = self.directory / "id_ed25519"

    @property
    def running(self) -> bool:
        """Whether it has come up and its QEMU still runs."""
        return self._state_file.exists() and is_running(self._pid_file)

    def start(
        self, flavour: str = "light", suite: str = DEFAULT_SUITE, *, cmdline: str = "", timeout: float = BOOT_SECONDS
    ) -> None:
        """Boot it and wait until its services are up; leave it alone if it runs like this already.

        `cmdline` is added to the kernel's command line. `timeout` (seconds) limits one boot; one that hangs is tried
        once more. Where this fails or is interrupted, nothing is left of the host.
        """
        image = build(flavour, suite)
        with self._locked():
            if self.running and self._answers(self._state().port, seconds=30):
                if (self._state().image, self._state().cmdline) != (str(image.directory), cmdline):
                    message = f"{self.name} runs with another image or kernel command line: stop it first."
                    raise VirtualHostError(message)
                say(f"{self.name} is running already")
                return
            try:
                self._state_file.unlink(missing_ok=True)
                shutil.copy(image.ssh_key, self._key)
                state = _State(str(image.directory), cmdline, self._boot(image, cmdline, timeout))
                self.inventory.write_text(self._inventory_text(state.port), encoding="utf-8")
                self._state_file.write_text(json.dumps(asdict(state)), encoding="utf-8")
            except BaseException:
                self._remove()
                raise

    def stop(self) -> None:
        """End it and remove its directory, if it is there."""
        if self.directory.is_dir():
            end(self._pid_file)  # a start that waits for it fails at once and gives up the lock
            with self._locked():
                self._remove()

    def ssh_command(self) -> list[str]:
        """Give the words of a command that reaches it; those of the remote command come after them."""
        if not self.running:
            message = f"{self.name} is not running."
            raise VirtualHostError(message)
        return self._ssh(self._state().port)

    def _boot(self, image: Image, cmdline: str, timeout: float) -> int:
        """Boot until it answers; give its port."""
        for boot in range(1, _BOOTS + 1):
            end(self._pid_file)
            self.console_log.write_bytes(b"")
            say(f"booting {self.name}" + (" once more" if boot > 1 else ""))
            started = time.monotonic()
            port = self._launch(image, cmdline)
            if self._comes_up(port, timeout):
                say(f"{self.name} is up after {time.monotonic() - started:.0f} s")
                return port
            say(f"{self.name} did not answer within {timeout:.0f} s; the end of its console:")
            for line in self._console_lines()[-10:]:
                say(f"| {line}")
        message = f"{self.name} did not boot, {_BOOTS} times."
        raise VirtualHostError(message)

    def _launch(self, image: Image, cmdline: str) -> int:
        """Start QEMU on a free port and give the port; another process may take it first, so try a few."""
        for _try in range(_LAUNCHES):
            port = _free_port()
            command = qemu_command(image, self.directory, ssh_port=port, cmdline=cmdline)
            try:
                with signals_deferred():  # until there is a pid file, an interrupted start could not end it
                    qemu = subprocess.run(
                        command,
                        stdin=subprocess.DEVNULL,
                        capture_output=True,
                        text=True,
                        start_new_session=True,
                        check=False,
                    )
            except FileNotFoundError as error:
                raise not_installed(QEMU) from error
            if qemu.returncode == 0:
                return port
            if "host forwarding" not in qemu.stderr:
                break
        message = f"QEMU does not start: {qemu.stderr.strip()}"
        raise VirtualHostError(message)

    def _comes_up(self, port: int, timeout: float) -> bool:
        """Wait until the host has finished booting, and say from time to time how far it is."""
        started = said = time.monotonic()
        while (now := time.monotonic()) < started + timeout:
            if not is_running(self._pid_file):
                message = f"{self.name} ended while it booted."
                raise VirtualHostError(message)
            if _greets(port) and self._answers(port, seconds=started + timeout - now):
                return True
            if now > said + 10:
                said = now
                say(f"{now - started:3.0f} s: {self._console_lines()[-1]}")
            time.sleep(0.2)
        return False

    def _answers(self, port: int, *, seconds: float) -> bool:
        """Log in, and wait there until the boot is complete."""
        waiting = "udevadm settle; [ -d /run/systemd/system ] || exec echo running; systemctl is-system-running --wait"
        command = [*self._ssh(port), waiting]
        try:
            answer = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        if answer.stdout.strip() == "degraded":
            say(f"warning: a service of {self.name} failed (systemctl --failed)")
        return answer.stdout.strip() in {"running", "degraded"}

    def _ssh(self, port: int) -> list[str]:
        return ["ssh", "-p", str(port), "-i", str(self._key), *self._ssh_options(), "root@127.0.0.1"]

    def _ssh_options(self) -> list[str]:
        """Give the options for ssh and Ansible alike: they share one connection, for a handshake takes a second."""
        return [
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
            *("-o", "ControlMaster=auto", "-o", "ControlPersist=600", "-o", f"ControlPath={self.directory}/ssh"),
        ]

    def _inventory_text(self, port: int) -> str:
        # All variables stand beside the host: group variables of several such inventories would overwrite each other.
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_port": port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": self._key,
            "ansible_ssh_common_args": " ".join(self._ssh_options()),
            "ansible_ssh_timeout": 60,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        return f"[vfio_hosts]\n{self.name} " + " ".join(f"{key}='{value}'" for key, value in variables.items()) + "\n"

    def _state(self) -> _State:
        return _State(**json.loads(self._state_file.read_text(encoding="utf-8")))

    def _console_lines(self) -> list[str]:
        text = self.console_log.read_text(encoding="utf-8", errors="replace")
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        return [line.strip() for line in plain.splitlines() if line.strip()] or ["(nothing on its console yet)"]

    def _remove(self) -> None:
        """End what runs of it, and remove its directory."""
        end(self._pid_file)
        control_socket = self.directory / "ssh"
        if control_socket.exists():
            subprocess.run(
                ["ssh", "-o", f"ControlPath={control_socket}", "-O", "exit", "vfio-host"],
                capture_output=True,
                check=False,
            )
        shutil.rmtree(self.directory)
        with suppress(OSError):  # other hosts are in it
            self.directory.parent.rmdir()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the host's directory, made where it is missing, against any other start and stop of this name."""
        while True:
            try:
                self.directory.parent.mkdir(mode=0o700, exist_ok=True)
                self.directory.mkdir(mode=0o700, exist_ok=True)
                descriptor = os.open(self.directory, os.O_RDONLY)
            except FileNotFoundError:
                continue  # a stop removed it just now
            try:
                lock(descriptor, holder=f"another start or stop of {self.name}")
                if _inode(self.directory) == os.fstat(descriptor).st_ino:  # nobody removed it meanwhile
                    yield
                    return
            finally:
                os.close(descriptor)


def virtual_hosts() -> list[VirtualHost]:
    """List all hosts that were started and not stopped."""
    return [VirtualHost(path.name) for path in sorted(_run_root().glob("*/"))]


def _run_root() -> Path:
    """Give the directory of all hosts' directories, which may not be there yet."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    root = Path(base if os.access(base, os.W_OK) else "/tmp") / f"vfio-isolation-{os.getuid()}"
    if os.path.lexists(root) and root.lstat().st_uid != os.getuid():
        message = f"{root} belongs to somebody else."
        raise VirtualHostError(message)
    return root


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _greets(port: int) -> bool:
    """Say whether an ssh server greets on `port` (QEMU itself accepts a connection long before)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
