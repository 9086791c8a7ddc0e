# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Finds the hierarchy of the cpuset controller, and the kinds of settings that it has."""

from __future__ import annotations

import re
from typing import Dict, List, cast

from .cgroup import Cgroups
from .host import Host
from .kind import Kind
from .systemd import Systemd


def find(host: Host, systemd: Systemd) -> Cgroups:
    """The cgroups of this host that have the cpuset controller.

    Some systems mount several v1 hierarchies with a v2 one beside them, so the first cgroup mount proves little, and
    any may be mounted outside /sys/fs/cgroup. See proc(5), /proc/PID/mountinfo.
    """
    found: List[Cgroups] = []
    for line in (host.read("/proc/self/mountinfo") or "").splitlines():
        place, _dash, filesystem = line.partition(" - ")
        kind, options = filesystem.split()[0], filesystem.split()[-1].split(",")
        root, mount = (re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), word) for word in place.split()[3:5])
        if kind == "cgroup2" and "cpuset" in (host.read(f"{mount}/cgroup.controllers") or "").split():
            from .cgroup_v2 import CgroupsV2  # a host needs one of the two

            found.append(CgroupsV2(host, systemd, mount, root))
        if kind == "cgroup" and "cpuset" in options:
            from .cgroup_v1 import CgroupsV1

            found.append(CgroupsV1(host, systemd, mount, root, "cpuset", short_names="noprefix" in options))
    # A part of it may be mounted elsewhere, too.
    return min(found, key=lambda cgroups: not cgroups.is_whole, default=Cgroups(host, systemd))


def kinds(cgroups: Cgroups) -> Dict[str, Kind]:
    """The kinds of settings that only this version has, by the prefix of their addresses."""
    if cgroups.version == 1:
        from . import cgroup_v1, cpuset_v1

        return cpuset_v1.kinds(cast(cgroup_v1.CgroupsV1, cgroups))
    if cgroups.version == 2:
        from . import cgroup_v2, cpuset_v2

        return cpuset_v2.kinds(cast(cgroup_v2.CgroupsV2, cgroups))
    return {}
