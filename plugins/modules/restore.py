#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: restore
short_description: Give back what claims changed
version_added: 0.1.0
description:
  - Gives back what claims changed, exactly, but for what the other claims of the host still want. Where no claim is
    left, every setting is what it was before the first one.
  - Needs nothing but the journal C(/run/vfio-isolation/journal.json) of the host. It also completes a run that was
    killed half-way.
  - Or writes back the values that a module returned as C(prior).
  - What is gone meanwhile, such as a process that has ended, needs nothing back and is left alone.
  - A claim that comes back at boot, see O(vfio.isolation.transaction#module:persist), does not any more.
author:
  - Contributors to the vfio.isolation project (@vfio-isolation)
extends_documentation_fragment:
  - vfio.isolation._attributes
  - vfio.isolation._options
attributes:
  idempotent:
    support: full
options:
  claims:
    description:
      - The names of the claims to give back.
      - A claim that the host does not have is no error.
      - By default, all claims of the host.
    type: list
    elements: str
  prior:
    description:
      - Values by address, as a module returned them as C(prior).
      - The claims of the host do not change. A setting that a claim wants otherwise is drift afterwards.
    type: dict
notes:
  - The address of a setting is its kind and its name. C(cgroup.exists), C(cgroup.controller), C(cgroup.cpus),
    C(cgroup.mems) and C(cgroup.partition) name a cgroup, C(systemd.AllowedCPUs) and C(systemd.AllowedMemoryNodes) a
    unit, C(irq.affinity) an interrupt, C(cpufreq.governor) and C(cpufreq.preference) a cpufreq policy. C(task.cgroup)
    and C(task.affinity) name a process or thread, and C(irqbalance.banned) a process, by its number and its start time
    in clock ticks since boot. C(irq.default) has no name.
  - A value is a CPU list or node list (empty means inherited), V(present) or V(absent), V(enabled) or V(disabled), a
    partition type, a governor, an energy preference, or the path of a cgroup. V(none) means no runtime drop-in of
    systemd.
seealso:
  - module: vfio.isolation.transaction
  - module: vfio.isolation.isolation_facts
"""

EXAMPLES = r"""
---
- name: Give everything back
  vfio.isolation.restore:
  become: true

- name: Give back what was changed for one virtual machine
  vfio.isolation.restore:
    claims:
      - win11
  become: true

- name: Change governors for a while, in no claim
  vfio.isolation.cpu_governor:
    governor: performance
  become: true
  register: governors

- name: Give these governors back
  vfio.isolation.restore:
    prior: "{{ governors.prior }}"
  become: true
"""

RETURN = r"""
---
files:
  description: The files of claims that came back at boot, and of the host runner, that were removed, by path.
  returned: success, where O(prior) is not given
  type: list
  elements: str
  sample: ["/etc/vfio-isolation/claims/host.json"]
claims:
  description: The claims that were given back, or in check mode would be.
  returned: success, where O(prior) is not given
  type: list
  elements: str
  sample: [win11]
strategy:
  description: The strategy that was taken, V(partition), V(slices) or V(tasks).
  returned: success, where a claim that is left reserves CPUs
  type: str
  sample: partition
strategy_reason:
  description: Why this strategy was taken.
  returned: success, where a claim that is left reserves CPUs
  type: str
  sample: cgroup v2, and Linux 6.1.0-40-amd64 has isolated cpuset partitions
vm_cpus:
  description: The CPUs that all claims of the host reserve together, as a CPU list.
  returned: success, where a claim that is left reserves CPUs
  type: str
  sample: 4-7
host_cpus:
  description: The online CPUs that are left to the host, as a CPU list.
  returned: success, where a claim that is left reserves CPUs
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
    - {"address": "cgroup.cpus:/machine.slice", "before": "4-7", "after": ""}
    - {"address": "cpufreq.governor:policy4", "before": "performance", "after": "schedutil"}
    - {"address": "irq.affinity:24", "before": "0-3", "after": "0-7"}
prior:
  description: >-
    The value that each changed setting had just before, by address. The option O(vfio.isolation.restore#module:prior)
    takes it.
  returned: success
  type: dict
  sample:
    "cgroup.cpus:/machine.slice": "4-7"
    "cpufreq.governor:policy4": "performance"
    "irq.affinity:24": "0-3"
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
    - {"address": "cgroup.exists:/machine.slice", "reason": "something runs in it, so it stays"}
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.plugins.module_utils._module import (
    run,
    stop_persisting,
    to_result,
    with_files,
)

ARGUMENTS = {
    "claims": {"type": "list", "elements": "str"},
    "prior": {"type": "dict"},
}


def call(module: AnsibleModule, engine: Engine) -> Dict[str, Any]:
    """Revert claims, or write values back."""
    claims, prior = module.params["claims"], module.params["prior"]
    if prior is None:
        result = to_result(module, engine.revert(claims, module.check_mode))
        return with_files(module, result, stop_persisting(module, engine, claims))
    return to_result(module, engine.restore_prior(prior, module.check_mode))


def main() -> None:
    """Be the module."""
    run(ARGUMENTS, call, mutually_exclusive=[("claims", "prior")])


if __name__ == "__main__":
    main()
