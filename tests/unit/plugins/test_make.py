# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What `make isolate` would run, on the virtual host and on hosts of one's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import List, Optional

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="this machine has no make")


def would_run(*given: str) -> str:
    """All commands of `make isolate`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--dry-run", "isolate", *given], cwd=str(ROOT), env=inherited, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("given", "cpus"),
    [
        ([], "4-7"),
        (["VM_CPUS=2"], "2"),
        (["INVENTORY=hosts.ini"], None),
        (["INVENTORY=hosts.ini", "VM_CPUS=8-15,24-31"], "8-15,24-31"),
    ],
)
def test_the_cpus_of_one_s_own_hosts_are_those_of_the_inventory(given: List[str], cpus: Optional[str]) -> None:
    """An extra variable would win over each host's own."""
    (command,) = (line for line in would_run(*given).splitlines() if line.startswith("ansible-playbook"))
    assert f"-e isolate_vm_cpus='{cpus}'" in command if cpus else "isolate_vm_cpus" not in command


def test_no_virtual_host_is_booted_for_hosts_of_one_s_own() -> None:
    assert "cli.py start" in would_run() and "cli.py" not in would_run("INVENTORY=hosts.ini")
