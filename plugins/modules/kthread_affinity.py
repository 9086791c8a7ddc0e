#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kthread_affinity
short_description: Keep kernel threads off CPUs
version_added: 0.1.0
description:
  - Keeps every kernel thread that can be bound off the given CPUs. See sched_setaffinity(2). Each thread keeps those of
    the other CPUs that it has already, or gets all of them if it has none.
  - Threads that the kernel binds itself, such as per-CPU threads and the workers and rescuers of workqueues, are not
    changed.
  - Linux gives a kernel thread that is created later all CPUs, whatever the affinity of kthreadd is. With O(claim),
    this is drift, and the next run binds the thread.
  - M(vfio.isolation.reserve_cpus) does this already. Use this module if you list the steps by hand.
  - Reverting restores the affinity of each thread, which is identified by its id and its start time.
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
    description: The CPUs to keep kernel threads off, in the CPU language (see the notes).
    type: raw
    required: true
"""

EXAMPLES = r"""
---
- name: Keep kernel threads off the CPUs of a virtual machine
  vfio.isolation.kthread_affinity:
    cpus: vm:win11
    claim: win11
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
    - {"address": "task.affinity:2:1", "before": "0-7", "after": "0-3"}
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success
  type: dict
  sample:
    "task.affinity:2:1": "0-7"
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
    - {"address": "task.affinity:77:212", "reason": "the thread has ended"}
"""

from ansible_collections.vfio.isolation.plugins.module_utils._module import run_step


def main() -> None:
    """Module entry point."""
    run_step("kthread_affinity")


if __name__ == "__main__":
    main()
