# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The role isolate without Ansible: its variables, and the steps that follow from them."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from ..steps.catalog import STEPS

RESERVE = STEPS["reserve_cpus"].ARGUMENTS

# The variables of the role by their names, except the claim's name and whether it persists. If the CPUs and the cgroup
# are not given, they are those of the domain that starts.
VARIABLES: Dict[str, Any] = {
    "isolate_vm_cpus": {"type": "raw"},
    "isolate_emulator_cpus": {"type": "raw"},
    "isolate_strategy": RESERVE["strategy"],
    "isolate_partition_type": RESERVE["partition_type"],
    "isolate_cgroup": {"type": "str"},
    "isolate_host_cgroup": {"type": "str", "default": "host.slice"},
    "isolate_host_mems": {"type": "raw", "default": ""},
    "isolate_memory_migrate": RESERVE["memory_migrate"],
    "isolate_governor": {"type": "str", "default": "performance"},
    "isolate_irqs": {"type": "bool", "default": True},
    "isolate_drop_caches": {"type": "bool", "default": True},
    "isolate_compact_memory": {"type": "bool", "default": True},
}


def items(variables: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """The steps, as a transaction takes them: those of roles/isolate/tasks/main.yml.

    Except that dirty pages are not written back before caches are dropped: a VM's start does not wait for a slow disk.
    """
    cpus = variables["isolate_vm_cpus"]
    governor = variables["isolate_governor"]
    reserve = {
        "cpus": cpus,
        "emulator_cpus": variables["isolate_emulator_cpus"],
        "strategy": variables["isolate_strategy"],
        "partition_type": variables["isolate_partition_type"],
        "cgroup": variables["isolate_cgroup"],
        "host_cgroup": variables["isolate_host_cgroup"],
        "host_mems": variables["isolate_host_mems"],
        "memory_migrate": variables["isolate_memory_migrate"],
    }
    return [
        {"drop_caches": {"sync": False}, "when": variables["isolate_drop_caches"]},
        {"cpu_governor": {"governor": governor, "cpus": cpus, "if_unsupported": "skip"}, "when": bool(governor)},
        {"reserve_cpus": reserve},
        {"compact_memory": {}, "when": variables["isolate_compact_memory"]},
        {"irq_affinity": {"operation": "mask", "cpus": cpus}, "when": variables["isolate_irqs"]},
    ]
