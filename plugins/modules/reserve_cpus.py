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
  - Takes CPUs away from the host, services that start later included, and leaves them to virtual machines, by the best
    strategy that the host has.
  - The strategy V(partition) makes the cgroup of the virtual machines a cpuset partition, which takes its CPUs away
    from all other tasks of the host in one write. The strategy V(slices) narrows every other cgroup at the top of
    the hierarchy to the other CPUs. See C(Documentation/admin-guide/cgroup-v2.rst) of the kernel, section Cpuset.
  - The strategy V(tasks), for cgroup v1, makes a cpuset for the host and moves the tasks of the root into it. Other
    cpusets are narrowed, and kernel threads bound one by one. See
    C(Documentation/admin-guide/cgroup-v1/cpusets.rst).
  - Under systemd, cpusets are set with C(systemctl set-property --runtime), see systemd.resource-control(5).
  - Reservations of several claims add up. The virtual machines have their union, the host has what is left.
  - The kernel resets thread affinities when a cpuset changes. They are recorded before, kept as far as they fit, and
    given back by a restore.
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
      - Further CPUs for the emulator threads, in the CPU language. They are reserved as well, since threads inside of a
        partition can only use its CPUs.
      - By default, or where empty, none.
    type: raw
  strategy:
    description: How the host is kept off the CPUs.
    type: str
    choices:
      auto: The best one that the host has, which is told in RV(strategy) with the reason.
      partition: >-
        O(cgroup) becomes a cpuset partition. Needs cgroup v2, and Linux 6.1 or later for an isolated one. The cgroup
        above it must be a partition, too, as the root is.
      slices: The other cgroups are narrowed to the other CPUs. Needs cgroup v2.
      tasks: The tasks of the host are moved into O(host_cgroup). Needs cgroup v1.
    default: auto
  partition_type:
    description: The type of the partition, where the strategy is V(partition).
    type: str
    choices:
      auto: V(isolated), but V(root) where there is more than one emulator CPU.
      isolated: The kernel does not balance load in it. Threads that are not pinned stay on one CPU.
      root: The kernel balances load in it.
    default: auto
  cgroup:
    description:
      - The cgroup that the virtual machines run in. That of libvirt is C(/machine.slice).
      - It is started where it does not run yet.
    type: str
    default: /machine.slice
  host_cgroup:
    description: The cpuset for the tasks of the host, where the strategy is V(tasks). It is made where it is missing.
    type: str
    default: /host.slice
  host_mems:
    description:
      - The NUMA nodes for the memory of the host, where the strategy is V(tasks), in the list format of the kernel.
      - By default, or where empty, those of the CPUs that are left to the host.
    type: raw
  memory_migrate:
    description:
      - Whether the memory of the tasks of the host moves to these nodes, where the strategy is V(tasks).
      - What has moved does not come back with a restore.
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

- name: Reserve NUMA node 1 but for its first core, without a partition
  vfio.isolation.reserve_cpus:
    cpus: node:1,^core:8
    strategy: slices
    claim: win11
  become: true
  register: reserved

- name: Tell what is left to the host
  ansible.builtin.debug:
    msg: "The host has CPUs {{ reserved.host_cpus }} ({{ reserved.strategy_reason }})"
"""

RETURN = r"""
---
strategy:
  description: The strategy that was taken, V(partition), V(slices) or V(tasks).
  returned: success
  type: str
  sample: partition
strategy_reason:
  description: Why this strategy was taken.
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
      description: The address of the setting. M(vfio.isolation.restore) explains addresses.
      type: str
    before:
      description: The value just before.
      type: str
    after:
      description: The value that was written.
      type: str
  sample:
    - {"address": "cgroup.controller:/", "before": "disabled", "after": "enabled"}
    - {"address": "cgroup.cpus:/machine.slice", "before": "", "after": "4-7"}
    - {"address": "cgroup.exists:/machine.slice", "before": "absent", "after": "present"}
    - {"address": "cgroup.partition:/machine.slice", "before": "member", "after": "isolated"}
    - {"address": "systemd.AllowedCPUs:machine.slice", "before": "none", "after": "4-7"}
prior:
  description: >-
    The value that each changed setting had just before, by address. The option O(vfio.isolation.restore#module:prior)
    takes it.
  returned: success
  type: dict
  sample:
    "cgroup.controller:/": "disabled"
    "cgroup.cpus:/machine.slice": ""
    "cgroup.exists:/machine.slice": "absent"
    "cgroup.partition:/machine.slice": "member"
    "systemd.AllowedCPUs:machine.slice": "none"
left_alone:
  description: The settings that were meant but not changed, sorted by address.
  returned: success
  type: list
  elements: dict
  contains:
    address:
      description: The address of the setting.
      type: str
    reason:
      description: Why it was left alone.
      type: str
  sample: []
"""

from ansible_collections.vfio.isolation.plugins.module_utils._module import run_step


def main() -> None:
    """Be the module."""
    run_step("reserve_cpus")


if __name__ == "__main__":
    main()
