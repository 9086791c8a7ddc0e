#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: reserve_cpus
short_description: Reserve CPUs for virtual machines
version_added: 0.1.0
description:
  - Takes CPUs away from the host, including services that start later, and leaves them to virtual machines. Uses the
    best strategy that the host supports.
  - The strategy V(partition) turns the cgroup of the virtual machines into a cpuset partition. One write then takes its
    CPUs away from all other tasks of the host. The strategy V(slices) narrows every other cgroup directly below the
    root to the other CPUs, and binds kernel threads one by one. See C(Documentation/admin-guide/cgroup-v2.rst) in the
    kernel sources, section Cpuset.
  - The strategy V(tasks), for cgroup v1, creates a cpuset for the host and moves the tasks of the root cgroup into it.
    It narrows other cpusets, and binds kernel threads one by one. See
    C(Documentation/admin-guide/cgroup-v1/cpusets.rst).
  - Under systemd, cpusets are set with C(systemctl set-property --runtime). See systemd.resource-control(5).
  - The reservations of several claims add up. The virtual machines share the union of the reserved CPUs, and the host
    has what is left.
  - The kernel resets thread affinities when a cpuset changes. The module records them first and keeps them as far as
    they fit. Reverting restores them.
author:
  - Contributors to the vfio.isolation project (@vfio-isolation)
extends_documentation_fragment:
  - vfio.isolation._attributes
  - vfio.isolation._options
  - vfio.isolation._options.claim
  - vfio.isolation._options.cpus
attributes:
  idempotent:
    support: full
options:
  cpus:
    description: The CPUs for the vCPUs of the virtual machines, in the CPU language (see the notes).
    type: raw
    required: true
  emulator_cpus:
    description:
      - More CPUs, for the emulator threads, in the CPU language. They are reserved, too, because threads inside a
        partition can only use its CPUs.
      - By default, or if empty, there are none.
    type: raw
  strategy:
    description: How the host is kept off the CPUs.
    type: str
    choices:
      auto: The best strategy that the host supports. RV(strategy) and RV(strategy_reason) report which one, and why.
      partition: >-
        O(cgroup) becomes a cpuset partition. This needs cgroup v2, and Linux 6.1 or later for an isolated partition.
        Linux 6.7 to 6.17 make none of CPUs that the boot option C(isolcpus) isolates.
        The parent of O(cgroup) must be a partition, too. The root cgroup is one.
      slices: The other cgroups are narrowed to the other CPUs. This needs cgroup v2.
      tasks: The tasks of the host are moved into O(host_cgroup). This needs cgroup v1.
    default: auto
  partition_type:
    description: The type of the partition, if the strategy is V(partition).
    type: str
    choices:
      auto: >-
        V(isolated), but V(root) if there is more than one emulator CPU. On Linux 6.18 and newer, always V(isolated) for
        CPUs that the boot option C(isolcpus) isolates, because these versions make no other partition of them.
      isolated: The kernel does not balance load in the partition. Threads that are not pinned stay on one CPU.
      root: >-
        The kernel balances load in the partition, except on CPUs that the boot option C(isolcpus) isolates.
    default: auto
  cgroup:
    description:
      - The cgroup that the virtual machines run in. libvirt uses C(/machine.slice), Proxmox VE C(/qemu.slice).
      - V(auto) is the cgroup directly below the root that holds all virtual machines which run. If none runs, it is the
        one that the claim had before, or C(/machine.slice). It is an error if there are several, or if it is one in
        which the host's own processes run, such as C(/user.slice). Virtual machines are QEMU processes, by the name of
        the program, that have C(/dev/kvm) open.
      - If it is a slice of systemd, it is started if it is not running yet.
      - If a virtual machine is in none of the cgroups that CPUs are reserved for, but may run on these CPUs, the module
        warns, because the virtual machine is then kept off them. It also warns if no virtual machine at all is in one
        of these cgroups, but some are elsewhere.
    type: str
    default: /machine.slice
  host_cgroup:
    description: >-
      The cpuset for the tasks of the host, if the strategy is V(tasks). It is created if it does not exist.
    type: str
    default: /host.slice
  host_mems:
    description:
      - The NUMA nodes for the memory of the host, in the list format of the kernel, if the strategy is V(tasks). With
        another strategy, it is an error to give them.
      - By default, or if empty, those of the CPUs that are left to the host.
    type: raw
  memory_migrate:
    description:
      - Whether the memory of the tasks of the host moves to these NUMA nodes, if the strategy is V(tasks). With another
        strategy, V(true) is an error.
      - Reverting does not move this memory back.
    type: bool
    default: false
"""

EXAMPLES = r"""
---
- name: Reserve CPUs 4 to 7 for virtual machines
  vfio.isolation.reserve_cpus:
    cpus: 4-7
    claim: host
  become: true

- name: Reserve the die with the most cache, and two more CPUs for emulator threads
  vfio.isolation.reserve_cpus:
    cpus: l3:largest
    emulator_cpus: core:8
    claim: win11
  become: true

- name: Reserve NUMA node 1 except its first core, without a partition
  vfio.isolation.reserve_cpus:
    cpus: node:1,^core:8
    strategy: slices
    claim: win11
  become: true
  register: reserved

- name: Show what is left to the host
  ansible.builtin.debug:
    msg: "The host has CPUs {{ reserved.host_cpus }} ({{ reserved.strategy_reason }})"
"""

RETURN = r"""
---
strategy:
  description: The strategy in use, V(partition), V(slices) or V(tasks).
  returned: success
  type: str
  sample: partition
strategy_reason:
  description: Why this strategy is used.
  returned: success
  type: str
  sample: cgroup v2, and Linux 6.1.0-40-amd64 has isolated cpuset partitions
vm_cpus:
  description: The CPUs that all claims of the host reserve together, as a CPU list.
  returned: success
  type: str
  sample: 4-7
host_cpus:
  description: The online CPUs that are left to the host, as a CPU list.
  returned: success
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
    - {"address": "cgroup.controller:/", "before": "disabled", "after": "enabled"}
    - {"address": "cgroup.cpus:/machine.slice", "before": "", "after": "4-7"}
    - {"address": "cgroup.exists:/machine.slice", "before": "absent", "after": "present"}
    - {"address": "cgroup.partition:/machine.slice", "before": "member", "after": "isolated"}
    - {"address": "systemd.AllowedCPUs:machine.slice", "before": "none", "after": "4-7"}
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success
  type: dict
  sample:
    "cgroup.controller:/": "disabled"
    "cgroup.cpus:/machine.slice": ""
    "cgroup.exists:/machine.slice": "absent"
    "cgroup.partition:/machine.slice": "member"
    "systemd.AllowedCPUs:machine.slice": "none"
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
  sample: []
"""

from ansible_collections.vfio.isolation.plugins.module_utils._module import run_step


def main() -> None:
    """Module entry point."""
    run_step("reserve_cpus")


if __name__ == "__main__":
    main()
