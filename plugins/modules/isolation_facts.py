#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: isolation_facts
short_description: Tell the topology, claims and drift of a host
version_added: 0.1.0
description:
  - Returns the CPU topology of the host, what isolation it supports, its claims, and which settings drifted away from
    what the claims want, as C(ansible_facts.vfio_isolation).
  - Reads C(/sys/devices/system/cpu), C(/sys/devices/system/node), the cgroup hierarchy, C(/proc/irq), and the journal
    C(/run/vfio-isolation/journal.json).
  - An interrupt that irqbalance moved is no drift, as long as it is on CPUs that the claims allow.
author:
  - Contributors to the vfio.isolation project (@vfio-isolation)
extends_documentation_fragment:
  - vfio.isolation._attributes
  - vfio.isolation._attributes.facts
  - vfio.isolation._options
seealso:
  - module: vfio.isolation.transaction
  - module: vfio.isolation.reserve_cpus
"""

EXAMPLES = r"""
---
- name: Gather the isolation facts
  vfio.isolation.isolation_facts:
  become: true

- name: Fail where a setting drifted
  ansible.builtin.assert:
    that: ansible_facts.vfio_isolation.drift | length == 0
    fail_msg: "{{ ansible_facts.vfio_isolation.drift }}"

- name: Tell the CPUs of the host and of the virtual machines
  ansible.builtin.debug:
    msg: >-
      The host has CPUs {{ ansible_facts.vfio_isolation.host_cpus }}, virtual machines have
      {{ ansible_facts.vfio_isolation.vm_cpus or 'none' }}.
"""

RETURN = r"""
---
ansible_facts:
  description: Facts to add to the facts of the host.
  returned: success
  type: dict
  contains:
    vfio_isolation:
      description: The isolation facts.
      type: dict
      contains:
        topology:
          description: The CPU topology. CPUs are CPU lists.
          type: dict
          contains:
            possible:
              description: The CPUs that may ever come online.
              type: str
              sample: 0-7
            online:
              description: The CPUs that run tasks.
              type: str
              sample: 0-7
            isolated_at_boot:
              description: The CPUs of the boot option C(isolcpus).
              type: str
              sample: ""
            nodes:
              description: The CPUs of each NUMA node, by its number.
              type: dict
              sample: {"0": "0-3", "1": "4-7"}
            packages:
              description: The CPUs of each package (socket), by its number.
              type: dict
              sample: {"0": "0-3", "1": "4-7"}
            dies:
              description: The CPUs of each die, by its number.
              type: dict
              sample: {"0": "0-7"}
            cores:
              description: The CPUs of each core, SMT siblings together.
              type: list
              elements: str
              sample: ["0-1", "2-3", "4-5", "6-7"]
            l3:
              description: The L3 domains.
              type: list
              elements: dict
              contains:
                cpus:
                  description: The CPUs that share the cache.
                  type: str
                bytes:
                  description: The size of the cache, in bytes.
                  type: int
              sample:
                - {"cpus": "0-3", "bytes": 16777216}
                - {"cpus": "4-7", "bytes": 16777216}
        supported:
          description: What the host supports.
          type: dict
          contains:
            cgroup_version:
              description: V(2) or V(1), that of the cpuset controller. V(0) where there is no such controller.
              type: int
              sample: 2
            systemd:
              description: Whether systemd is the init of the host.
              type: bool
              sample: true
            partitions:
              description: Whether the kernel has isolated cpuset partitions.
              type: bool
              sample: true
            strategies:
              description: The strategies of M(vfio.isolation.reserve_cpus) that the host has, the best first.
              type: list
              elements: str
              sample: ["partition", "slices"]
            cpufreq:
              description: Whether the host has cpufreq policies.
              type: bool
              sample: true
            governors:
              description: The governors that cpufreq policies offer now, sorted. The kernel may load more.
              type: list
              elements: str
              sample: ["ondemand", "performance", "powersave", "schedutil"]
            irqbalance:
              description: Whether an irqbalance runs that can be told which CPUs to keep interrupts off.
              type: bool
              sample: true
        strategy:
          description: The strategy by which CPUs are reserved, or that V(auto) would take. V(null) where there is none.
          type: str
          sample: partition
        strategy_reason:
          description: Why that one, or why there is none.
          type: str
          sample: cgroup v2, and Linux 6.1.0-40-amd64 has isolated cpuset partitions
        claims:
          description: The claims of the host, by name.
          type: dict
          contains:
            steps:
              description: The steps of a claim, as M(vfio.isolation.transaction) takes them, with all arguments.
              type: list
              elements: dict
          sample:
            win11:
              steps:
                - drop_caches: {"sync": true, "what": "all"}
        vm_cpus:
          description: The CPUs that the claims reserve, as a CPU list. Empty where they reserve none.
          type: str
          sample: 4-7
        host_cpus:
          description: The online CPUs that are left to the host, as a CPU list.
          type: str
          sample: 0-3
        drift:
          description: The settings that are not as the claims want them, sorted by address.
          type: list
          elements: dict
          contains:
            address:
              description: The address of the setting. M(vfio.isolation.restore) explains addresses.
              type: str
            expected:
              description: The value that the claims want.
              type: str
            actual:
              description: The value that it has.
              type: str
          sample:
            - {"address": "cpufreq.governor:policy4", "expected": "performance", "actual": "schedutil"}
        left_alone:
          description: The settings that the claims would have otherwise, but that cannot be changed.
          type: list
          elements: dict
          contains:
            address:
              description: The address of the setting.
              type: str
            reason:
              description: Why it cannot be changed.
              type: str
          sample:
            - {"address": "irq.affinity:27", "reason": "managed by the kernel (nvme0q3)"}
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.plugins.module_utils._facts import gather
from ansible_collections.vfio.isolation.plugins.module_utils._module import run


def call(module: AnsibleModule, engine: Engine) -> Dict[str, Any]:
    """Gather the facts."""
    facts, warnings = gather(engine)
    for warning in warnings:
        module.warn(warning)
    return {"ansible_facts": {"vfio_isolation": facts}}


def main() -> None:
    """Be the module."""
    run({}, call)


if __name__ == "__main__":
    main()
