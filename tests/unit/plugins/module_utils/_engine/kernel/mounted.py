# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cgroup hierarchy of a host by its mounts, on real files."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.cgroup import Cgroups
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.hierarchy import find
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.systemd import Systemd
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

V2 = "25 22 0:24 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n"


def cgroups(tmp_path: Path, files: Dict[str, str]) -> Cgroups:
    """The hierarchy that a host with these files has."""
    host = FakeHost(str(tmp_path), files)
    return find(host, Systemd(host))
