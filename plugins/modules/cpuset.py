#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cpuset
short_description: Create, change or remove a cpuset
version_added: 0.1.0
description:
  - Makes sure that a cgroup exists with the cpuset controller enabled, and sets its CPUs, its memory nodes and its
    partition type or flags. Alternatively, makes sure that the cgroup does not exist.
  - Works on the hierarchy that has the cpuset controller. For cgroup v2, see
    C(Documentation/admin-guide/cgroup-v2.rst) in the kernel sources, section Cpuset. For cgroup v1, which may be
    mounted in addition to v2, see C(Documentation/admin-guide/cgroup-v1/cpusets.rst).
  - On cgroup v1, a cpuset without CPUs and memory nodes cannot hold tasks. A new cpuset, and each missing one above it,
    therefore gets those of its parent if none are given. A list that is not part of the parent's list is an error.
  - Under systemd, the cpuset of a unit is set with C(systemctl set-property --runtime), as C(AllowedCPUs),
    C(AllowedMemoryNodes) and, since systemd 261, C(CPUSetPartition). See systemd.resource-control(5). A list that is
    written directly would be lost at the next C(daemon-reload).
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
  path:
    description:
      - The path of the cgroup below the root of the hierarchy, such as V(/user.slice).
      - Under systemd, a new cgroup directly below the root must be a slice, such as V(/vm.slice), because systemd would
        remove the cpuset of anything else. Further down, a path that does not end in C(.slice) becomes a plain cgroup.
    type: str
    required: true
  state:
    description: Whether the cpuset should exist.
    type: str
    choices:
      present: It exists, with the given CPUs, memory nodes and partition type or flags.
      absent: >-
        The cpuset and the cgroups below it do not exist. Their tasks are moved to the parent, and return when the
        cpuset is restored. A running systemd service or scope is an error.
    default: present
  cpus:
    description:
      - The CPUs, in the CPU language (see the notes).
      - An empty string or list means the CPUs of the parent.
      - By default, the CPUs are not changed.
    type: raw
  mems:
    description:
      - The NUMA nodes to allocate memory from, in the list format of the kernel, as a string or a list. V(N0) means the
        same as V(0).
      - An empty string or list means the NUMA nodes of the parent.
      - By default, the NUMA nodes are not changed.
    type: raw
  operation:
    description:
      - What to do with O(cpus) and O(mems).
      - A cpuset that has no list of its own counts as having the CPUs and NUMA nodes that it inherits.
    type: str
    choices:
      set: The cpuset has these and no others.
      add: The cpuset has these in addition to what it has already.
      mask: The cpuset has none of these. It is an error if nothing would be left.
    default: set
  partition:
    description:
      - The partition type. V(isolated) needs Linux 6.1 or later.
      - If the kernel declares the partition invalid, the module fails with the reason that the kernel gives, and
        nothing is changed.
      - Only for cgroup v2. By default, the partition type is not changed.
    type: str
    choices:
      member: No partition.
      root: A partition, whose CPUs no cgroup outside of it can use.
      isolated: A partition like V(root), in which the kernel does not balance load.
  cpu_exclusive:
    description:
      - Whether the CPUs are exclusive, so that no sibling may have any of them. The parent must be exclusive, too.
      - This and the other flags are only for cgroup v1. On cgroup v2, they are an error. By default, a flag is not
        changed.
    type: bool
  mem_exclusive:
    description: Whether the memory nodes are exclusive, so that no sibling may have any of them. Only for cgroup v1.
    type: bool
  mem_hardwall:
    description: >-
      Whether memory that the kernel allocates for tasks of this cpuset also stays on its memory nodes. Only for cgroup
      v1.
    type: bool
  memory_migrate:
    description:
      - Whether memory moves to the memory nodes of this cpuset when these change, and when a task is moved into it.
        Only for cgroup v1. On cgroup v2, it always does.
      - Reverting does not move this memory back, because the cpuset that the task returns to decides about it.
    type: bool
  sched_load_balance:
    description:
      - Whether the kernel balances load among the CPUs. Only for cgroup v1.
      - The root has this flag, too. With O(path=/), only flags can be set.
    type: bool
"""

EXAMPLES = r"""
---
- name: Keep user sessions off CPUs 4 to 7
  vfio.isolation.cpuset:
    path: /user.slice
    operation: mask
    cpus: 4-7
    claim: win11
  become: true

- name: Create an isolated partition for virtual machines
  vfio.isolation.cpuset:
    path: /machine.slice
    cpus: node:1
    mems: 1
    partition: isolated
    claim: win11
  become: true

- name: Let the slice inherit the CPUs of its parent
  vfio.isolation.cpuset:
    path: /user.slice
    cpus: ""
  become: true

- name: Create a cpuset on cgroup v1 whose tasks have their memory on NUMA node 0
  vfio.isolation.cpuset:
    path: /host.slice
    cpus: N0
    mems: 0
    memory_migrate: true
  become: true

- name: Remove a cpuset
  vfio.isolation.cpuset:
    path: /vm.slice
    state: absent
  become: true
"""

RETURN = r"""
---
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
    - {"address": "cgroup.cpus:/user.slice", "before": "", "after": "0-3"}
    - {"address": "systemd.AllowedCPUs:user.slice", "before": "none", "after": "0-3"}
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success
  type: dict
  sample:
    "cgroup.controller:/": "disabled"
    "cgroup.cpus:/user.slice": ""
    "systemd.AllowedCPUs:user.slice": "none"
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
    run_step("cpuset")


if __name__ == "__main__":
    main()
