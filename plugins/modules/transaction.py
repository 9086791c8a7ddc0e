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
  - Applies a list of steps on a host in one go, under one lock, and records them in the journal
    C(/run/vfio-isolation/journal.json) as a claim. M(vfio.isolation.restore) reverts the claim.
  - It is all or nothing. If a step fails, the previous values are restored, the claim is what it was before, and the
    message names the step.
  - A second run with the same steps changes nothing, unless something has drifted. A run with other steps replaces the
    steps of the claim, and reverts what only the previous steps changed.
  - The claims of a host add up. Each is planned on top of the ones before it.
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
      The name of the claim, such as V(host) or the name of a virtual machine. It has 1 to 255 printable characters.
    type: str
    required: true
  steps:
    description:
      - The steps in their order. Each item is a dictionary that maps a module to its arguments. The name of the module
        can be given with or without the name of the collection. The module's own argument specification checks the
        arguments.
      - A C(when) next to the module, V(true) or V(false), decides whether the step belongs to the claim. It is a value
        and not a condition, so write it with a template.
      - The modules are M(vfio.isolation.compact_memory), M(vfio.isolation.cpu_governor), M(vfio.isolation.cpuset),
        M(vfio.isolation.drop_caches), M(vfio.isolation.hugepages), M(vfio.isolation.irq_affinity),
        M(vfio.isolation.kthread_affinity), M(vfio.isolation.move_tasks) and M(vfio.isolation.reserve_cpus).
      - The options C(claim) and C(lock_timeout) of these modules belong to the transaction, not to a step.
      - C(drop_caches) and C(compact_memory) act only if the claim is new or changes something, not if there is nothing
        to do.
    type: list
    elements: raw
    required: true
  persist:
    description:
      - Whether the unit C(vfio-isolation@CLAIM.service) applies the claim from C(/etc/vfio-isolation/claims), and when.
        The name of the claim is escaped as by systemd-escape(1). The unit uses the host runner in
        C(/usr/local/lib/vfio-isolation) and does not need Ansible. Stopping the unit reverts the claim.
      - If making the claim persistent fails, nothing is changed, and the claim is what it was before.
    type: str
    choices:
      "false": There is no such unit. The same is true after M(vfio.isolation.restore) has reverted the claim.
      "true": The claim is applied now, and the unit applies it at boot.
      on_demand: >-
        The unit applies the claim as long as another unit that requires it runs, such as that of a virtual machine, and
        reverts it when that unit has ended. If it does not run now, the steps are only checked. A virtual machine that
        runs is not stopped when M(vfio.isolation.restore) reverts the claim.
    default: "false"
  python:
    description: The Python interpreter on the host that starts the host runner, version 3.8 or newer.
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

- name: Show what a claim with two cpusets would change, without changing anything
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

- name: Revert the claim
  vfio.isolation.restore:
    claims:
      - host
  become: true
"""

RETURN = r"""
---
files:
  description: >-
    The paths of the files that were written or removed, or in check mode would be. They belong to the host runner, to
    hooks and the virtual machines that these are attached to, and to persistent claims.
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
    What the steps that act return, such as C(freed_bytes) of M(vfio.isolation.drop_caches) and C(free_huge_blocks) of
    M(vfio.isolation.compact_memory). The keys are the names of the modules. If a claim lists an action more than once,
    the later ones have the key C(NAME:POSITION), with the position of the step in the list, counted from 1, such as
    C(drop_caches:4). Empty in check mode, and if there was nothing to do.
  returned: success
  type: dict
  sample:
    drop_caches: {"freed_bytes": 1874329600}
    compact_memory: {"free_huge_blocks": [{"node": 0, "before": 311, "after": 1490}]}
strategy:
  description: The strategy in use, V(partition), V(slices) or V(tasks).
  returned: success, if a claim of the host reserves CPUs
  type: str
  sample: partition
strategy_reason:
  description: Why this strategy is used.
  returned: success, if a claim of the host reserves CPUs
  type: str
  sample: cgroup v2, and Linux 6.1.0-40-amd64 has isolated cpuset partitions
vm_cpus:
  description: The CPUs that all claims of the host reserve together, as a CPU list.
  returned: success, if a claim of the host reserves CPUs
  type: str
  sample: 4-7
host_cpus:
  description: The online CPUs that are left to the host, as a CPU list.
  returned: success, if a claim of the host reserves CPUs
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
    - {"address": "cgroup.cpus:/machine.slice", "before": "", "after": "4-7"}
    - {"address": "cpufreq.governor:policy4", "before": "schedutil", "after": "performance"}
    - {"address": "irq.affinity:24", "before": "0-7", "after": "0-3"}
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success
  type: dict
  sample:
    "cgroup.cpus:/machine.slice": ""
    "cpufreq.governor:policy4": "schedutil"
    "irq.affinity:24": "0-7"
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
    - {"address": "irq.affinity:27", "reason": "managed by the kernel (nvme0q3)"}
"""

from typing import Any, Dict

from ansible_collections.vfio.isolation.plugins.module_utils._zip_importer import compile_once

compile_once()  # `_module` does so for what it imports, but this is the module that roles call: here for `_module`, too

from ansible_collections.vfio.isolation.plugins.module_utils._module import (
    AnsibleModule,
    Engine,
    read_steps,
    run,
    stop_persisting,
    to_result,
    with_files,
)

ARGUMENTS = {
    "claim": {"type": "str", "required": True},
    "steps": {"type": "list", "elements": "raw", "required": True},
    "persist": {"type": "str", "choices": ["false", "true", "on_demand"], "default": "false"},
    "python": {"type": "path", "default": "/usr/bin/python3"},
}


def call(module: AnsibleModule, engine: Engine) -> Dict[str, Any]:
    """Apply the claim."""
    claim, python, persist = (module.params[option] for option in ("claim", "python", "persist"))
    steps = read_steps(module.params["steps"])
    if persist == "false":
        outcome, files = engine.apply_and_then(
            claim, steps, module.check_mode, lambda: stop_persisting(module, engine, [claim])
        )
    else:
        # Here, not above: few runs need it, and to compile it takes its time.
        from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
        from ansible_collections.vfio.isolation.plugins.module_utils._engine.planning.virtual_machines import AUTO
        from ansible_collections.vfio.isolation.plugins.module_utils._host_files import unit_files
        from ansible_collections.vfio.isolation.plugins.module_utils._install import (
            Installation,
            check_persistable,
            check_python,
        )

        check_persistable(claim)
        if any(step.arguments.get("cgroup") == AUTO for step in steps):
            raise IsolationError(
                f"persist: the cgroup {AUTO} is where virtual machines run, and none runs when the claim is applied"
                " again; name the cgroup, such as /machine.slice"
            )
        check_python(engine.host, python)
        on_demand = persist == "on_demand"
        wanted = unit_files(claim, [{step.name: step.arguments} for step in steps], python, on_demand)
        installation = Installation(engine.host, module.check_mode)
        if on_demand and not installation.is_required(claim):
            engine.apply(claim, steps, check=True)  # nothing is installed that could not be applied
            files = installation.persist(claim, wanted, on_demand)
            known = [name for name in engine.journal_file.load().claims if name == claim]
            outcome = engine.revert(known, module.check_mode)._replace(notes={})
        else:
            outcome, files = engine.apply_and_then(
                claim, steps, module.check_mode, lambda: installation.persist(claim, wanted, on_demand)
            )
    return {**with_files(module, to_result(module, outcome), files), "claim": claim, "actions": outcome.actions}


def main() -> None:
    """Module entry point."""
    run(ARGUMENTS, call)


if __name__ == "__main__":
    main()
