# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a host with cgroup v1, 8 CPUs and 2 NUMA nodes, to plan steps on."""

from __future__ import annotations

from typing import Dict

CPUSET = "/sys/fs/cgroup/cpuset"
V1: Dict[str, str] = {
    "/proc/self/mountinfo": f"31 22 0:26 / {CPUSET} rw - cgroup cgroup rw,cpuset",
    "/proc/sys/kernel/osrelease": "6.1.0",
    "/proc/sys/kernel/random/boot_id": "1",
    "/sys/devices/system/cpu/possible": "0-7",
    "/sys/devices/system/cpu/present": "0-7",
    "/sys/devices/system/cpu/online": "0-7",
    "/sys/devices/system/node/online": "0-1",
    "/sys/devices/system/node/has_memory": "0-1",
    "/sys/devices/system/node/node0/cpulist": "0-3",
    "/sys/devices/system/node/node1/cpulist": "4-7",
    f"{CPUSET}/cgroup.procs": "",
    f"{CPUSET}/tasks": "",
    f"{CPUSET}/cpuset.cpus": "0-7",
    f"{CPUSET}/cpuset.mems": "0-1",
    f"{CPUSET}/cpuset.effective_cpus": "0-7",
}
