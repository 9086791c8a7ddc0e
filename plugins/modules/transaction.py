#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: transaction
short_description: Apply a claim, a list of steps, as one transaction
version_added: 0.1.0
description:
  - Carries out a list of steps on a host in one go, under one lock, and records them in the journal
    C(/run/vfio-isolation/journal.json) as a claim. M(vfio.isolation.restore) gives everything back.
  - All or nothing. Where a step fails, what was changed is written back, the claim is what it was before, and the
    message names the step.
  - A second run with the same steps changes nothing, unless something drifted. With other steps, the claim becomes
    these steps. What only the former ones changed is given back.
  - The claims of a host add up. Each is planned over the ones before it.
author:
  - Contributors to the vfio.isolation project (@vfio-isolation)
extends_documentation_fragment:
  - vfio.isolation._attributes
  - vfio.isolation._options
  - vfio.isolation._options.cpus
attributes:
  idempotent:
    support: full
options:
  claim:
    description: >-
      The name of the claim, such as V(host) or the name of a virtual machine, of 1 to 255 printable characters.
    type: str
    required: true
  steps:
    description:
      - The steps in their order. Each item is a mapping of one module, with or without the name of the collection, to
        its arguments, which are checked as that module checks them.
      - A C(when) beside the module, V(true) or V(false), says whether the step belongs to the claim. It is a value,
        not a condition, so write it with a template.
      - The modules are M(vfio.isolation.compact_memory), M(vfio.isolation.cpu_governor), M(vfio.isolation.cpuset),
        M(vfio.isolation.drop_caches), M(vfio.isolation.irq_affinity), M(vfio.isolation.kthread_affinity),
        M(vfio.isolation.move_tasks) and M(vfio.isolation.reserve_cpus).
      - The options C(claim) and C(lock_timeout) of these modules belong to the transaction, not to a step.
      - C(drop_caches) and C(compact_memory) act where the claim is new or changes something, and not where there is
        nothing to do.
    type: list
    elements: raw
    required: true
  persist:
    description:
      - Whether the claim comes back at boot. The unit C(vfio-isolation@CLAIM.service), its name as of
        systemd-escape(1), then makes it from C(/etc/vfio-isolation/claims), with the host runner in
        C(/usr/local/lib/vfio-isolation) and without Ansible. Stopping the unit gives the claim back until the next
        boot.
      - With V(false), it does not come back any more. M(vfio.isolation.restore) sees to that, too.
    type: bool
    default: false
  python:
    description: The Python of the host that the host runner is started with, 3.8 or newer.
    type: path
    default: /usr/bin/python3
seealso:
  - module: vfio.isolation.libvirt_hook
  - module: vfio.isolation.restore
  - module: vfio.isolation.isolation_facts
"""

EXAMPLES = r"""
---
- name: Isolate CPUs 4 to 7 for virtual machines
  vfio.isolation.transaction:
    claim: host
    steps:
      - drop_caches: {}
      - cpu_governor:
          governor: performance
          cpus: 4-7
          if_unsupported: skip
      - reserve_cpus:
          cpus: 4-7
      - compact_memory: {}
        when: "{{ huge_pages | default(true) }}"
      - irq_affinity:
          cpus: 4-7
  become: true

- name: Show what a claim with two cpusets would change, and change nothing
  vfio.isolation.transaction:
    claim: batch
    steps:
      - vfio.isolation.cpuset:
          path: /batch.slice
          cpus: 0-1
      - vfio.isolation.cpuset:
          path: /user.slice
          operation: mask
          cpus: 0-1
  become: true
  check_mode: true
  diff: true

- name: Give everything back
  vfio.isolation.restore:
    claims:
      - host
  become: true
"""

RETURN = r"""
---
files:
  description: The files of the host runner, its unit and the saved claim that were written or removed, by path.
  returned: success
  type: list
  elements: str
  sample: ["/etc/vfio-isolation/claims/host.json"]
claim:
  description: The name of the claim.
  returned: success
  type: str
  sample: host
actions:
  description: >-
    What the steps that act tell, by the name of their module, such as C(freed_bytes) of M(vfio.isolation.drop_caches)
    and C(free_huge_blocks) of M(vfio.isolation.compact_memory). Empty in check mode, and where there was nothing to do.
  returned: success
  type: dict
  sample:
    drop_caches: {"freed_bytes": 1874329600}
    compact_memory: {"free_huge_blocks": [{"node": 0, "before": 311, "after": 1490}]}
strategy:
  description: The strategy that was taken, V(partition), V(slices) or V(tasks).
  returned: success, where a claim of the host reserves CPUs
  type: str
  sample: partition
strategy_reason:
  description: Why this strategy was taken.
  returned: success, where a claim of the host reserves CPUs
  type: str
  sample: cgroup v2, and Linux 6.1.0-40-amd64 has isolated cpuset partitions
vm_cpus:
  description: The CPUs that all claims of the host reserve together, as a CPU list.
  returned: success, where a claim of the host reserves CPUs
  type: str
  sample: 4-7
host_cpus:
  description: The online CPUs that are left to the host, as a CPU list.
  returned: success, where a claim of the host reserves CPUs
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
    - {"address": "cgroup.cpus:/machine.slice", "before": "", "after": "4-7"}
    - {"address": "cpufreq.governor:policy4", "before": "schedutil", "after": "performance"}
    - {"address": "irq.affinity:24", "before": "0-7", "after": "0-3"}
prior:
  description: >-
    The value that each changed setting had just before, by address. The option O(vfio.isolation.restore#module:prior)
    takes it.
  returned: success
  type: dict
  sample:
    "cgroup.cpus:/machine.slice": ""
    "cpufreq.governor:policy4": "schedutil"
    "irq.affinity:24": "0-7"
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
    - {"address": "irq.affinity:27", "reason": "managed by the kernel (nvme0q3)"}
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.plugins.module_utils._module import (
    read_steps,
    run,
    stop_persisting,
    to_result,
    with_files,
)

ARGUMENTS = {
    "claim": {"type": "str", "required": True},
    "steps": {"type": "list", "elements": "raw", "required": True},
    "persist": {"type": "bool", "default": False},
    "python": {"type": "path", "default": "/usr/bin/python3"},
}


def call(module: AnsibleModule, engine: Engine) -> Dict[str, Any]:
    """Apply the claim."""
    claim, python = module.params["claim"], module.params["python"]
    steps = read_steps(module.params["steps"])
    if not module.params["persist"]:
        outcome = engine.apply(claim, steps, module.check_mode)
        files = stop_persisting(module, engine, [claim])
    else:
        # Here, not above: few runs need it, and to compile it takes its time.
        from ansible_collections.vfio.isolation.plugins.module_utils._host_files import unit_files
        from ansible_collections.vfio.isolation.plugins.module_utils._install import (
            Installation,
            check_persistable,
            check_python,
        )

        check_persistable(claim)
        check_python(engine.host, python)
        outcome = engine.apply(claim, steps, module.check_mode)
        items = [{step.name: step.arguments} for step in steps]
        files = Installation(engine.host, module.check_mode).persist(claim, unit_files(claim, items, python))
    return {**with_files(module, to_result(module, outcome), files), "claim": claim, "actions": outcome.actions}


def main() -> None:
    """Be the module."""
    run(ARGUMENTS, call)


if __name__ == "__main__":
    main()
