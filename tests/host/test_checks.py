# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every check of `checks/`, run on the virtual host by the engine itself."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import VirtualHost

# The hosts that a module's checks are run on, where that is not the one with cgroup v2.
HOSTS = {
    "boot_options": ("isolcpus_host",),
    "cgroup_v1": ("v1_host",),
    "libvirt": ("libvirt_host",),
    "machines": ("libvirt_host",),
    "moves": ("host", "v1_host"),
    "no_systemd": ("openrc_host",),
    "proxmox": ("libvirt_host",),
}

SKIPPED = 77  # see checks/__main__.py

CHECKS = [
    (host, path.stem, node.name)
    for path in sorted((Path(__file__).parent / "checks").glob("*.py"))
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
    for host in HOSTS.get(path.stem, ("host",))
]
NAMES = [f"{module}-{name[6:]}{'-v1' if host == 'v1_host' else ''}" for host, module, name in CHECKS]


@pytest.mark.parametrize(("where", "module", "name"), CHECKS, ids=NAMES)
def test_on_the_host(request: pytest.FixtureRequest, where: str, module: str, name: str) -> None:
    """The check passes, and leaves the host as it was."""
    host: VirtualHost = request.getfixturevalue(where)
    given = " ".join(f"{word}={int(os.environ[word])}" for word in ("SOAK", "SEED") if word in os.environ)
    done = host.run(f"cd /opt/isolation && {given} python3 -m checks {module} {name}", timeout=1200)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())  # the check has printed why this host has nothing for it
    assert done.returncode == 0, done.stdout
    print(done.stdout)
