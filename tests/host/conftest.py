# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A booted virtual host, with the engine and the checks on it."""

from __future__ import annotations

import configparser
import io
import os
import shlex
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class VirtualHost:
    """The host of the inventory VFIO_INVENTORY, over ssh."""

    def __init__(self, inventory: str) -> None:
        self.inventory = inventory
        parser = configparser.ConfigParser(allow_no_value=True, delimiters=("\0",))
        parser.read(inventory)
        line = next(line for line in parser["vfio_hosts"] if "ansible_host=" in line)
        values = dict(word.split("=", 1) for word in shlex.split(line)[1:])
        self._ssh = [
            "ssh",
            *shlex.split(values["ansible_ssh_common_args"]),
            *("-p", values["ansible_port"], "-i", values["ansible_ssh_private_key_file"]),
            f"{values['ansible_user']}@{values['ansible_host']}",
        ]

    def run(self, command: str, *, given: bytes = b"", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command as root; standard error is in its output."""
        done = subprocess.run(
            [*self._ssh, command],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
        return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(errors="replace"))

    def put(self, directories: dict[str, Path], target: str) -> None:
        """Copy directories, each under a name, into a fresh one."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, path in directories.items():
                archive.add(path, name, filter=lambda item: None if "__pycache__" in item.name else item)
        done = self.run(f"rm -rf {target} && mkdir {target} && tar xf - -C {target}", given=packed.getvalue())
        assert done.returncode == 0, done.stdout


def programs() -> Path:
    """The C programs of the tests, compiled here to run on any host."""
    compiled = ROOT / ".cache" / "programs"
    compiled.mkdir(parents=True, exist_ok=True)
    for source in (ROOT / "tests" / "host" / "programs").glob("*.c"):
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", compiled / source.stem, source]
        subprocess.run(command, check=True)
    return compiled


def _prepared(variable: str) -> VirtualHost:
    inventory = os.environ.get(variable)
    assert inventory, f"{variable} must name the inventory of a running virtual host; `make host` boots one"
    virtual_host = VirtualHost(inventory)
    virtual_host.put(
        {
            "module_utils": ROOT / "plugins" / "module_utils",
            "checks": ROOT / "tests" / "host" / "checks",
            "programs": programs(),
        },
        "/opt/isolation",
    )
    return virtual_host


@pytest.fixture(scope="session")
def host() -> VirtualHost:
    """The virtual host, with `engine`, `checks` and `programs` in /opt/isolation."""
    return _prepared("VFIO_INVENTORY")


@pytest.fixture(scope="session")
def v1_host() -> VirtualHost:
    """The virtual host on cgroup v1, with the same."""
    return _prepared("VFIO_V1_INVENTORY")


@pytest.fixture(scope="session")
def libvirt_host() -> VirtualHost:
    """The virtual host with libvirt, with the same."""
    return _prepared("VFIO_LIBVIRT_INVENTORY")
