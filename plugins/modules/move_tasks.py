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
  - Moves every task of one cgroup to another cgroup, together with what these tasks fork in the meantime, until no task
    is left that can move. With O(claim), the next run moves the tasks that have appeared since then.
  - On cgroup v2, a task is a process with all its threads, which is written to C(cgroup.procs). See
    C(Documentation/admin-guide/cgroup-v2.rst) in the kernel sources. On cgroup v1, a task is a thread, which is written
    to C(tasks). See C(Documentation/admin-guide/cgroup-v1/cpusets.rst).
  - The tasks of cgroups below the source stay where they are.
  - Reverting moves back the tasks that were moved, and what they have forked since then. It leaves alone the tasks that
    were in the target before, what these have forked, and the tasks that something else has moved away. A task is
    identified by its id and its start time, so a later task with the same id is not touched.
  - Without O(claim), restoring RV(prior) moves back the tasks that were moved, but nothing that they forked later.
  - The module keeps the thread affinities that the move would reset as far as they fit. Reverting restores them.
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
      The path of the cgroup that the tasks are moved to. It must exist, or be created by an earlier step of the same
      transaction.
    type: str
    required: true
  kernel_threads:
    description:
      - Whether kernel threads are moved, too.
      - Threads that the kernel binds to their CPUs are never moved. RV(left_alone) reports how many threads stay, and
        why.
    type: bool
    default: false
"""

EXAMPLES = r"""
---
- name: Move the tasks of the root cgroup to another cgroup
  vfio.isolation.move_tasks:
    source: /
    target: /host.slice
    claim: host
  become: true

- name: Create a cpuset and move processes into it, all or nothing
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
      description: The address of the setting. M(vfio.isolation.restore) lists all kinds of addresses.
      type: str
    before:
      description: The value just before.
      type: str
    after:
      description: The value that was written, or in check mode would be.
      type: str
  sample:
    - {"address": "task.cgroup:1042:88317", "before": "/jobs.slice", "after": "/batch.slice"}
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success
  type: dict
  sample:
    "task.cgroup:1042:88317": "/jobs.slice"
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
    - {"address": "task.cgroup:/", "reason": "63 kernel threads are bound to their CPUs by the kernel"}
"""

from ansible_collections.vfio.isolation.plugins.module_utils._module import run_step


def main() -> None:
    """Module entry point."""
    run_step("move_tasks")


if __name__ == "__main__":
    main()
