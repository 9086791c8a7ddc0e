#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: isolation_facts
short_description: Report the topology, claims and drift of a host
version_added: 0.1.0
description:
  - Returns the CPU topology of the host, the isolation that it supports, its claims, and the settings that have drifted
    from what the claims want, as C(ansible_facts.vfio_isolation).
  - Reads C(/sys/devices/system/cpu), C(/sys/devices/system/node), the cgroup hierarchy, C(/proc/irq), and the journal
    C(/run/vfio-isolation/journal.json).
  - An interrupt that irqbalance has moved is not drift, as long as it is on CPUs that the claims allow. Neither is a
    kernel thread that was created after the last run; C(new_kernel_threads) lists these.
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

- name: Fail if a setting has drifted
  ansible.builtin.assert:
    that: ansible_facts.vfio_isolation.drift | length == 0
    fail_msg: "{{ ansible_facts.vfio_isolation.drift }}"

- name: Show the CPUs of the host and of the virtual machines
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
              description: The CPUs that can ever come online.
              type: str
              sample: 0-7
            online:
              description: The CPUs that are online.
              type: str
              sample: 0-7
            isolated_at_boot:
              description: The CPUs that the boot option C(isolcpus) isolates.
              type: str
              sample: ""
            nohz_full:
              description: The CPUs that the boot option C(nohz_full) names.
              type: str
              sample: ""
            rcu_nocbs:
              description: The CPUs that the boot options C(rcu_nocbs) and C(nohz_full) name.
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
            node_memory:
              description: The memory of each NUMA node, in bytes, by its number. V(0) if a node has only CPUs.
              type: dict
              sample: {"0": 17179869184, "1": 17179869184}
            node_distances:
              description: >-
                For each NUMA node, by its number, how far it is from each node, as the firmware says. V(10) is the node
                itself.
              type: dict
              sample: {"0": {"0": 10, "1": 21}, "1": {"0": 21, "1": 10}}
            dies:
              description: >-
                The CPUs of each die, by its number. If numbers start again in every package, the package is in front,
                as in V(1.0).
              type: dict
              sample: {"0": "0-7"}
            cores:
              description: The CPUs of each core. SMT siblings are together.
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
            types:
              description: >-
                The C(performance) and C(efficiency) CPUs of a hybrid processor. Empty if all CPUs are of one type,
                V(null) if the kernel does not say.
              type: dict
              sample: {}
        supported:
          description: What the host supports.
          type: dict
          contains:
            cgroup_version:
              description: >-
                The cgroup version of the cpuset controller, V(2) or V(1). V(0) if there is no such controller.
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
              description: The strategies of M(vfio.isolation.reserve_cpus) that the host supports, the best first.
              type: list
              elements: str
              sample: ["partition", "slices"]
            cpufreq:
              description: Whether the host has cpufreq policies.
              type: bool
              sample: true
            governors:
              description: >-
                The governors that the cpufreq policies offer now, sorted. The kernel may be able to load more.
              type: list
              elements: str
              sample: ["ondemand", "performance", "powersave", "schedutil"]
            irqbalance:
              description: Whether irqbalance runs and has a socket through which CPUs can be banned.
              type: bool
              sample: true
        strategy:
          description: >-
            The strategy in use, or if no claim reserves CPUs, the one that V(auto) would choose. V(null) if the host
            supports none.
          type: str
          sample: partition
        strategy_reason:
          description: Why this strategy is used, or why there is none.
          type: str
          sample: cgroup v2, and Linux 6.1.0-40-amd64 has isolated cpuset partitions
        claims:
          description: >-
            The claims of the host, as a dictionary. The keys are the names of the claims, and each value is a
            dictionary with the following keys.
          type: dict
          contains:
            steps:
              description: >-
                The steps of the claim in their order, as M(vfio.isolation.transaction) takes them. Each is a dictionary
                with the name of the module as its only key, and all arguments of the module as its value.
              type: list
              elements: dict
            granted:
              description: >-
                For each step, the CPUs and NUMA nodes that its options came to when the claim was made, as lists, by
                the options. They stay the same, whatever happens to the host or to a domain, until the claim is
                applied again.
              type: list
              elements: dict
            created_by:
              description: >-
                Who created the claim. An empty string if it was a module or a playbook, V(libvirt) or V(proxmox) if it
                was a hook.
              type: str
          sample:
            win11:
              steps:
                - drop_caches: {"sync": true, "what": "all"}
                - kthread_affinity: {"cpus": "node:1"}
              granted:
                - {}
                - {"cpus": "4-7"}
              created_by: ""
        vm_cpus:
          description: >-
            The CPUs that all claims of the host reserve together, as a CPU list. Empty if no claim reserves CPUs.
          type: str
          sample: 4-7
        host_cpus:
          description: The online CPUs that are left to the host, as a CPU list.
          type: str
          sample: 0-3
        drift:
          description: The settings that have drifted from what the claims want, sorted by address.
          type: list
          elements: dict
          contains:
            address:
              description: The address of the setting. M(vfio.isolation.restore) lists all kinds of addresses.
              type: str
            expected:
              description: The value that the claims want.
              type: str
            actual:
              description: The value that the setting has.
              type: str
          sample:
            - {"address": "cpufreq.governor:policy4", "expected": "performance", "actual": "schedutil"}
        new_kernel_threads:
          description:
            - The kernel threads that may use CPUs that the claims take away from them, because they were created after
              the last run, sorted by address. Linux gives a new kernel thread all CPUs.
            - They have not drifted, so they are not in C(drift). The next run that applies a claim binds them.
          type: list
          elements: dict
          contains:
            address:
              description: The address of the thread's affinity.
              type: str
            expected:
              description: The CPUs that the next run binds the thread to.
              type: str
            actual:
              description: The CPUs that the thread may use.
              type: str
            name:
              description: The name of the thread. Empty if it has ended.
              type: str
          sample:
            - {"address": "task.affinity:847:32044", "expected": "0-3", "actual": "0-7", "name": "psimon"}
        left_alone:
          description: The settings that should be different but were left as they are, sorted by address.
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
            - {"address": "irq.affinity:27", "reason": "managed by the kernel (nvme0q3)"}
        owed:
          description: >-
            The settings that no claim changes any more, and that could not be given back because their CPUs were
            offline, sorted by address. The first run that applies or reverts a claim after these are online gives
            them back.
          type: list
          elements: dict
          contains:
            address:
              description: The address of the setting.
              type: str
            value:
              description: The value that it is to have.
              type: str
          sample:
            - {"address": "cpufreq.governor:policy6", "value": "schedutil"}
        virtual_machines:
          description: >-
            The virtual machines that run, by their process numbers. These are QEMU processes, by the name of the
            program, that have C(/dev/kvm) open.
          type: list
          elements: dict
          contains:
            process:
              description: The number of the QEMU process.
              type: int
            name:
              description: The name that QEMU was given with C(-name). Empty if it was given none.
              type: str
            cgroup:
              description: The cgroup of the process.
              type: str
          sample:
            - {"process": 2714, "name": "win11", "cgroup": "/machine.slice/machine-qemu-win11.scope/libvirt/emulator"}
"""

from typing import Any, Dict

from ansible_collections.vfio.isolation.plugins.module_utils._module import AnsibleModule, Engine, run

# What is imported after that is compiled once.
# isort: split
from ansible_collections.vfio.isolation.plugins.module_utils._facts import gather


def call(module: AnsibleModule, engine: Engine) -> Dict[str, Any]:
    """Gather the facts."""
    facts, warnings = gather(engine)
    for warning in warnings:
        module.warn(warning)
    return {"ansible_facts": {"vfio_isolation": facts}}


def main() -> None:
    """Module entry point."""
    run({}, call)


if __name__ == "__main__":
    main()
