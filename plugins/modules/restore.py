#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: restore
short_description: Revert claims, or restore saved values
version_added: 0.1.0
description:
  - Reverts exactly what claims changed, except for what other claims of the host still need. If no claim is left, every
    setting is what it was before the first one.
  - Needs nothing but the journal C(/run/vfio-isolation/journal.json) of the host. It also reverts a run that was killed
    halfway.
  - Alternatively, restores the values that a module returned as C(prior).
  - What no longer exists, such as a process that has ended, is left alone.
  - A reverted claim no longer comes back at boot. See O(vfio.isolation.transaction#module:persist).
author:
  - Contributors to the vfio.isolation project (@vfio-isolation)
extends_documentation_fragment:
  - vfio.isolation._attributes
  - vfio.isolation._options
attributes:
  idempotent:
    support: full
options:
  claims:
    description:
      - The names of the claims to revert.
      - If the host does not have a claim, the module warns about it and does not fail.
      - The default is all claims of the host.
    type: list
    elements: str
  prior:
    description:
      - Values by address, as a module returned them as C(prior). See the notes for all kinds of addresses.
      - The claims of the host do not change. A setting that a claim determines keeps the value that the claim wants.
    type: dict
notes:
  - The address of a setting is the kind of the setting, a colon, and a name, such as C(irq.affinity:24). Values are
    strings. The following notes list all kinds.
  - >-
    C(cgroup.exists): The name is the path of a cgroup, such as C(/user.slice). The value is V(present) or V(absent).
  - >-
    C(cgroup.cpus), C(cgroup.mems): The name is the path of a cgroup. The value is the CPU list or the list of memory
    nodes that is configured for it. On cgroup v2, an empty value means that the list is inherited. On cgroup v1, it
    means that the cpuset is new or does not exist.
  - >-
    C(cgroup.controller): The name is the path of a cgroup. The value is V(enabled) or V(disabled), for the cpuset
    controller in the cgroups directly below it. Only on cgroup v2.
  - >-
    C(cgroup.partition): The name is the path of a cgroup. The value is the partition type, V(member), V(root) or
    V(isolated). If the partition is invalid, the note of the kernel follows the type. Only on cgroup v2.
  - >-
    C(cgroup.cpu_exclusive), C(cgroup.mem_exclusive), C(cgroup.mem_hardwall), C(cgroup.memory_migrate),
    C(cgroup.sched_load_balance): The name is the path of a cgroup. The value is V(1) or V(0), or empty if the cpuset
    does not exist. Only on cgroup v1.
  - >-
    C(systemd.AllowedCPUs), C(systemd.AllowedMemoryNodes), C(systemd.CPUSetPartition): The name is a systemd unit, such
    as C(user.slice). The value is the list, or the partition type, in the runtime drop-in of the unit, or V(none) if
    there is no such drop-in. C(insisted) follows it if a second drop-in keeps others from overriding it. The partition
    type is there since systemd 261. Only on cgroup v2.
  - >-
    C(task.cgroup): The name is the id of a task and its start time in clock ticks since boot, such as C(1042:88317). On
    cgroup v2, the task is a process, and on cgroup v1, a thread. The value is the path of its cgroup.
  - >-
    C(task.affinity): The name is the id of a thread and its start time in clock ticks since boot. The value is the CPU
    list that the thread may run on.
  - >-
    C(irq.affinity): The name is the number of an interrupt. The value is the CPU list of its IRQ affinity.
  - >-
    C(irq.default): The name is empty, so the address is C(irq.default:). The value is the CPU list of the default
    affinity, which new interrupts get.
  - >-
    C(irqbalance.banned): The name is the id of the irqbalance process and its start time in clock ticks since boot. The
    value is the list of the CPUs that it keeps interrupts off.
  - >-
    C(cpufreq.governor), C(cpufreq.preference): The name is a cpufreq policy, such as C(policy4). The value is its
    governor or its energy preference.
  - >-
    C(memory.hugepages): The name is a NUMA node and a size of huge pages, such as C(node0/2048kB). The value is the
    number of pages of that size on the node.
seealso:
  - module: vfio.isolation.transaction
  - module: vfio.isolation.isolation_facts
"""

EXAMPLES = r"""
---
- name: Revert all claims
  vfio.isolation.restore:
  become: true

- name: Revert what was changed for one virtual machine
  vfio.isolation.restore:
    claims:
      - win11
  become: true

- name: Change governors for a while, without a claim
  vfio.isolation.cpu_governor:
    governor: performance
  become: true
  register: governors

- name: Restore the previous governors
  vfio.isolation.restore:
    prior: "{{ governors.prior }}"
  become: true
"""

RETURN = r"""
---
files:
  description: >-
    The paths of the files that were written or removed, or in check mode would be. They belong to the host runner, to
    hooks and the virtual machines that these are attached to, and to persistent claims.
  returned: success, if O(prior) is not given
  type: list
  elements: str
  sample: ["/etc/vfio-isolation/claims/host.json"]
claims:
  description: The names of the claims that were reverted, or in check mode would be.
  returned: success, if O(prior) is not given
  type: list
  elements: str
  sample: [win11]
strategy:
  description: The strategy in use, V(partition), V(slices) or V(tasks).
  returned: success, if a claim was reverted or O(prior) is given, and a remaining claim reserves CPUs
  type: str
  sample: partition
strategy_reason:
  description: Why this strategy is used.
  returned: success, if a claim was reverted or O(prior) is given, and a remaining claim reserves CPUs
  type: str
  sample: cgroup v2, and Linux 6.1.0-40-amd64 has isolated cpuset partitions
vm_cpus:
  description: The CPUs that all claims of the host reserve together, as a CPU list.
  returned: success, if a claim was reverted or O(prior) is given, and a remaining claim reserves CPUs
  type: str
  sample: 4-7
host_cpus:
  description: The online CPUs that are left to the host, as a CPU list.
  returned: success, if a claim was reverted or O(prior) is given, and a remaining claim reserves CPUs
  type: str
  sample: 0-3
changes:
  description: The settings that were changed, or in check mode would be, sorted by address.
  returned: success
  type: list
  elements: dict
  contains:
    address:
      description: The address of the setting. M(vfio.isolation.restore) lists all kinds of addresses.
      type: str
    before:
      description: The value just before.
      type: str
    after:
      description: The value that was written, or in check mode would be.
      type: str
  sample:
    - {"address": "cgroup.cpus:/machine.slice", "before": "4-7", "after": ""}
    - {"address": "cpufreq.governor:policy4", "before": "performance", "after": "schedutil"}
    - {"address": "irq.affinity:24", "before": "0-3", "after": "0-7"}
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success
  type: dict
  sample:
    "cgroup.cpus:/machine.slice": "4-7"
    "cpufreq.governor:policy4": "performance"
    "irq.affinity:24": "0-3"
left_alone:
  description: The settings that should be different but were left as they are, sorted by address.
  returned: success
  type: list
  elements: dict
  contains:
    address:
      description: The address of the setting.
      type: str
    reason:
      description: Why the setting was left as it is.
      type: str
  sample:
    - {"address": "cgroup.exists:/machine.slice", "reason": "something runs in it, so it stays"}
"""

from typing import Any, Dict

from ansible_collections.vfio.isolation.plugins.module_utils._module import (
    AnsibleModule,
    Engine,
    run,
    stop_persisting,
    to_result,
    with_files,
)

ARGUMENTS = {
    "claims": {"type": "list", "elements": "str"},
    "prior": {"type": "dict"},
}


def call(module: AnsibleModule, engine: Engine) -> Dict[str, Any]:
    """Revert claims, or write values back."""
    claims, prior = module.params["claims"], module.params["prior"]
    if prior is None:
        result = to_result(module, engine.revert(claims, module.check_mode))
        return with_files(module, result, stop_persisting(module, engine, claims))
    return to_result(module, engine.restore_prior(prior, module.check_mode))


def main() -> None:
    """Module entry point."""
    run(ARGUMENTS, call, mutually_exclusive=[("claims", "prior")])


if __name__ == "__main__":
    main()
