#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: move_tasks
short_description: Move the tasks of a cgroup to another one
version_added: 0.1.0
description:
  - Moves every task of one cgroup to another cgroup, and what these fork meanwhile, until none is left that can move.
    With O(claim), the next run moves those that came since.
  - On cgroup v2 these are processes with all their threads, written to C(cgroup.procs), see
    C(Documentation/admin-guide/cgroup-v2.rst) of the kernel; on cgroup v1 they are threads, written to C(tasks), see
    C(Documentation/admin-guide/cgroup-v1/cpusets.rst).
  - The tasks of cgroups below the source stay where they are.
  - A restore moves back those that were moved, and what they have forked since. It leaves alone those that were in the
    target before with what they have forked, and those that were moved elsewhere meanwhile. A task is known by its id
    and its start time, so another one that has the same id by now is not touched.
  - Without O(claim), RV(prior) leads back what was moved, and nothing that was forked after.
  - The affinities of threads that the move would reset are kept as far as they fit, and given back by a restore.
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
    description: The path of the cgroup whose tasks are moved, such as V(/user.slice/legacy).
    type: str
    required: true
  target:
    description: >-
      The path of the cgroup that they are moved to. It must exist, or be made by an earlier step of the same
      transaction.
    type: str
    required: true
  kernel_threads:
    description:
      - Whether kernel threads are moved as well.
      - Those that are bound to their CPUs by the kernel never are. RV(left_alone) says how many stay, and why.
    type: bool
    default: false
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
    - {"address": "task.cgroup:/", "reason": "63 kernel threads are bound to their CPUs by the kernel"}
"""

from ansible_collections.vfio.isolation.plugins.module_utils._module import run_step


def main() -> None:
    """Be the module."""
    run_step("move_tasks")


if __name__ == "__main__":
    main()
