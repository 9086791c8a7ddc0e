# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Booted virtual hosts, with the engine and the checks on them; each worker of pytest-xdist has one of its own."""

from __future__ import annotations

import configparser
import io
import os
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# By the fixture, what the names of all tests have that need this host. test_parity is costly: it measures once.
SINGLE_HOSTS = {
    "v1_host": "v1|test_parity",
    "libvirt_host": "libvirt|machines|proxmox",
    "isolcpus_host": "boot_options",
    "openrc_host": "no_systemd",
}


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


def _worker() -> int:
    """The number of this worker of pytest-xdist; 0 without that."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


def programs() -> Path:
    """The C programs of the tests, compiled here to run on any host."""
    compiled = ROOT / ".cache" / "programs" / f"gw{_worker()}"
    compiled.mkdir(parents=True, exist_ok=True)
    for source in (ROOT / "tests" / "host" / "programs").glob("*.c"):
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", compiled / source.stem, source]
        subprocess.run(command, check=True)
    return compiled


def _unit_of_work(nodeid: str) -> str:
    """What one worker does as a whole: all tests on a host of which there is one, and else each test by itself."""
    return next((name for name, words in SINGLE_HOSTS.items() if re.search(words, nodeid)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute the tests by the hosts that they need."""
    from xdist.scheduler import LoadScopeScheduling

    class ByHost(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _unit_of_work(nodeid)

    return ByHost(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The names of tests say which host they need."""
    for item in items:
        assert isinstance(item, pytest.Function)
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        asked = [*item.fixturenames, *(getattr(value, "host", value) for value in parameters.values())]
        for name, words in SINGLE_HOSTS.items():
            assert name not in asked or _unit_of_work(item.nodeid) == name, f"{item.nodeid} must be named {words}"


def _prepared(variable: str) -> VirtualHost:
    inventories = os.environ.get(variable, "").split()
    assert inventories, f"{variable} must name the inventory of a running virtual host; `make host` boots one"
    which = _worker() if variable == "VFIO_INVENTORY" else 0
    assert which < len(inventories), f"{variable} must name an inventory for each worker"
    virtual_host = VirtualHost(inventories[which])
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


@pytest.fixture(scope="session")
def openrc_host() -> VirtualHost:
    """The virtual host with OpenRC instead of systemd, with the same."""
    return _prepared("VFIO_OPENRC_INVENTORY")


@pytest.fixture
def isolcpus_host() -> Iterator[VirtualHost]:
    """The virtual host whose CPUs 4-7 were isolated at boot, with the same, for one test.

    With nohz_full=, an emulated host that is idle keeps a tenth of a CPU of this machine busy, so it is shut down.
    """
    virtual_host = _prepared("VFIO_ISOLCPUS_INVENTORY")
    yield virtual_host
    virtual_host.run("systemctl poweroff")
