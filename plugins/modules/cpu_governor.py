#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cpu_governor
short_description: Set the cpufreq governor of CPUs
version_added: 0.1.0
description:
  - Sets the cpufreq governor, and on request the energy preference, of the cpufreq policies of some CPUs.
  - Writes C(scaling_governor) and C(energy_performance_preference) below C(/sys/devices/system/cpu/cpufreq/policyN/),
    see C(Documentation/admin-guide/pm/cpufreq.rst) and C(Documentation/admin-guide/pm/intel_pstate.rst) of the kernel.
  - CPUs can share a policy. Then the CPUs that share one with the given CPUs get the governor as well.
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
  governor:
    description:
      - The name of the governor, such as V(performance), V(powersave) or V(schedutil).
      - The kernel loads a governor that is a module.
    type: str
    required: true
  cpus:
    description: The CPUs whose policies are set, in the CPU language (see the notes).
    type: raw
    default: online
  energy_preference:
    description:
      - The energy preference, such as V(performance), V(balance_performance) or V(power), or a raw number where the
        driver takes one.
      - By default it is left as it is. But drivers in active mode lock it to V(performance) with that governor, so the
        step then records the one that there was, and a restore gives it back.
    type: str
  if_unsupported:
    description: What to do where none of the CPUs has a cpufreq policy, as in most virtual machines.
    type: str
    choices:
      fail: Fail.
      skip: Change nothing, and say so in RV(left_alone).
    default: fail
"""

EXAMPLES = r"""
---
- name: Run all CPUs at full speed
  vfio.isolation.cpu_governor:
    governor: performance
  become: true

- name: Run the CPUs of the virtual machine at full speed, where the host has cpufreq
  vfio.isolation.cpu_governor:
    governor: performance
    cpus: node:1
    if_unsupported: skip
    claim: win11
  become: true

- name: Save energy on the efficiency cores
  vfio.isolation.cpu_governor:
    governor: powersave
    cpus: type:efficiency
    energy_preference: power
    claim: host
  become: true

- name: Change governors for a benchmark
  vfio.isolation.cpu_governor:
    governor: performance
  become: true
  register: governors

- name: Give them back
  vfio.isolation.restore:
    prior: "{{ governors.prior }}"
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
    - {"address": "cpufreq.governor:policy4", "before": "schedutil", "after": "performance"}
    - {"address": "cpufreq.governor:policy6", "before": "schedutil", "after": "performance"}
prior:
  description: >-
    The value that each changed setting had just before, by address. The option O(vfio.isolation.restore#module:prior)
    takes it.
  returned: success
  type: dict
  sample:
    "cpufreq.governor:policy4": "schedutil"
    "cpufreq.governor:policy6": "schedutil"
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
    run_step("cpu_governor")


if __name__ == "__main__":
    main()
