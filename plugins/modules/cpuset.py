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
    partition type or flags, or makes sure that it does not exist.
  - Works on the hierarchy that has the cpuset controller. On cgroup v2 see C(Documentation/admin-guide/cgroup-v2.rst)
    of the kernel, section Cpuset; on cgroup v1, also where it is mounted beside a v2 hierarchy, see
    C(Documentation/admin-guide/cgroup-v1/cpusets.rst).
  - On cgroup v1 a new cpuset, and each missing one above it, gets the CPUs and memory nodes of its parent where none
    are given, since it could not take a task without. A list that does not nest in that of the parent is an error.
  - Under systemd, the cpuset of a unit is set with C(systemctl set-property --runtime), as C(AllowedCPUs) and
    C(AllowedMemoryNodes), see systemd.resource-control(5). A value written directly would be gone at the next
    C(daemon-reload).
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
  path:
    description:
      - The path of the cgroup below the root of the hierarchy, such as V(/user.slice).
      - Under systemd, a new cgroup at the top must be a slice, such as V(/vm.slice), since systemd would take the
        cpuset away from anything else. Below the top, a path that does not end in C(.slice) becomes a plain cgroup.
    type: str
    required: true
  state:
    description: Whether the cpuset is to exist.
    type: str
    choices:
      present: It exists, with the given CPUs, memory nodes and partition type.
      absent: >-
        It does not exist, nor do the cgroups below it. Their tasks are moved to the parent, and come back with the
        cpuset when it is restored. A running systemd service or scope is an error.
    default: present
  cpus:
    description:
      - The CPUs, in the CPU language (see the notes).
      - An empty string or list means the CPUs of the parent.
      - By default they are left as they are.
    type: raw
  mems:
    description:
      - The NUMA nodes to take memory from, in the list format of the kernel, as a string or a list. V(N0) means the
        same as V(0).
      - An empty string or list means the nodes of the parent.
      - By default they are left as they are.
    type: raw
  operation:
    description:
      - What to do with O(cpus) and O(mems).
      - A cpuset that has no list of its own counts as having the CPUs and nodes that it inherits.
    type: str
    choices:
      set: The cpuset has these and no others.
      add: The cpuset has these and what it has already.
      mask: The cpuset has none of these. It is an error where none would be left.
    default: set
  partition:
    description:
      - The partition type. C(isolated) exists since Linux 6.1.
      - Where the kernel declares the partition invalid, the module fails with the reason of the kernel, and everything
        is as it was before.
      - Only on cgroup v2. By default it is left as it is.
    type: str
    choices:
      member: No partition.
      root: A partition, whose CPUs no cgroup outside of it can use.
      isolated: The same, and the kernel does not balance load in it.
  cpu_exclusive:
    description:
      - Whether no sibling may have any of the CPUs. The parent must be exclusive, too.
      - This and the other flags are for cgroup v1; on cgroup v2 giving one is an error. By default each is left as it
        is.
    type: bool
  mem_exclusive:
    description: Whether no sibling may have any of the memory nodes. Only on cgroup v1.
    type: bool
  mem_hardwall:
    description: Whether allocations of the kernel for tasks of this cpuset stay on its nodes, too. Only on cgroup v1.
    type: bool
  memory_migrate:
    description:
      - Whether memory moves to the nodes of this cpuset when these change, and when a task is moved into it. Only on
        cgroup v1; on cgroup v2 it always does.
      - What has migrated does not come back with a restore, since the cpuset that the task returns to decides about it.
    type: bool
  sched_load_balance:
    description:
      - Whether the kernel balances load among the CPUs. Only on cgroup v1.
      - The root has it, too, which is the one thing that can be set with O(path=/).
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

- name: Make an isolated partition for virtual machines
  vfio.isolation.cpuset:
    path: /machine.slice
    cpus: node:1
    mems: 1
    partition: isolated
    claim: win11
  become: true

- name: Let the slice use what its parent has
  vfio.isolation.cpuset:
    path: /user.slice
    cpus: ""
  become: true

- name: Make a cpuset on cgroup v1 whose tasks have their memory on NUMA node 0
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
    - {"address": "cgroup.cpus:/user.slice", "before": "", "after": "0-3"}
    - {"address": "systemd.AllowedCPUs:user.slice", "before": "none", "after": "0-3"}
prior:
  description: >-
    The value that each changed setting had just before, by address. The option O(vfio.isolation.restore#module:prior)
    takes it.
  returned: success
  type: dict
  sample:
    "cgroup.controller:/": "disabled"
    "cgroup.cpus:/user.slice": ""
    "systemd.AllowedCPUs:user.slice": "none"
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
    run_step("cpuset")


if __name__ == "__main__":
    main()
