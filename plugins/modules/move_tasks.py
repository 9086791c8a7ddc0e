#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: move_tasks
short_description: Move the processes of a cgroup to another one
version_added: 0.1.0
description:
  - Moves every process of one cgroup, with all its threads, to another cgroup. With O(claim), processes
    that are forked meanwhile are moved as well, and so are at the next run those that came since.
  - Writes C(cgroup.procs) of the target, see C(Documentation/admin-guide/cgroup-v2.rst) of the kernel.
  - The processes of cgroups below the source stay where they are. So do kernel threads, which is told in
    RV(left_alone).
  - A restore moves each process back, if it still runs.
author:
  - Contributors to the vfio.isolation project (@vfio-isolation)
extends_documentation_fragment:
  - vfio.isolation._attributes
  - vfio.isolation._options
  - vfio.isolation._options.claim
attributes:
  idempotent:
    support: full
options:
  source:
    description: The path of the cgroup whose processes are moved, such as V(/user.slice/legacy).
    type: str
    required: true
  target:
    description: >-
      The path of the cgroup that they are moved to. It must exist, or be made by an earlier step of the same
      transaction.
    type: str
    required: true
"""

EXAMPLES = r"""
---
- name: Move what runs in the root cgroup away from it
  vfio.isolation.move_tasks:
    source: /
    target: /host.slice
    claim: host
  become: true

- name: Make a cpuset and move processes into it, all or nothing
  vfio.isolation.transaction:
    claim: batch
    steps:
      - cpuset:
          path: /batch.slice
          cpus: 0-1
      - move_tasks:
          source: /jobs.slice
          target: /batch.slice
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
    - {"address": "task.cgroup:1042:88317", "before": "/jobs.slice", "after": "/batch.slice"}
prior:
  description: >-
    The value that each changed setting had just before, by address. The option O(vfio.isolation.restore#module:prior)
    takes it.
  returned: success
  type: dict
  sample:
    "task.cgroup:1042:88317": "/jobs.slice"
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
  sample:
    - {"address": "task.cgroup:/", "reason": "63 kernel threads stay in the root cgroup"}
"""

from ansible_collections.vfio.isolation.plugins.module_utils._module import run_step


def main() -> None:
    """Be the module."""
    run_step("move_tasks")


if __name__ == "__main__":
    main()
