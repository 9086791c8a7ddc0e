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
  - Sets the cpufreq governor, and optionally the energy preference, of the cpufreq policies of some CPUs.
  - Writes to C(scaling_governor) and C(energy_performance_preference) below
    C(/sys/devices/system/cpu/cpufreq/policyN/). See C(Documentation/admin-guide/pm/cpufreq.rst) and
    C(Documentation/admin-guide/pm/intel_pstate.rst) in the kernel sources.
  - CPUs can share a policy. In that case, all CPUs that share a policy with the given CPUs get the governor, too.
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
      - If the governor is a kernel module that is not loaded yet, the kernel loads it.
    type: str
    required: true
  cpus:
    description: The CPUs whose policies are set, in the CPU language (see the notes).
    type: raw
    default: online
  energy_preference:
    description:
      - The energy preference, such as V(performance), V(balance_performance) or V(power), or a number from 0 to
        255 if the driver accepts one and has no name for it.
      - By default, the energy preference is not changed. However, drivers in active mode lock it to V(performance)
        while that governor is set. The step then records the previous energy preference, and reverting restores it.
    type: str
  if_unsupported:
    description: What to do if none of the CPUs has a cpufreq policy, as in most virtual machines.
    type: str
    choices:
      fail: Fail.
      skip: Change nothing, and report it in RV(left_alone).
    default: fail
"""

EXAMPLES = r"""
---
- name: Run all CPUs at full speed
  vfio.isolation.cpu_governor:
    governor: performance
  become: true

- name: Run the CPUs of the virtual machine at full speed if the host has cpufreq
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

- name: Restore the previous governors
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
      description: The address of the setting. M(vfio.isolation.restore) lists all kinds of addresses.
      type: str
    before:
      description: The value just before.
      type: str
    after:
      description: The value that was written, or in check mode would be.
      type: str
  sample:
    - {"address": "cpufreq.governor:policy4", "before": "schedutil", "after": "performance"}
    - {"address": "cpufreq.governor:policy6", "before": "schedutil", "after": "performance"}
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success
  type: dict
  sample:
    "cpufreq.governor:policy4": "schedutil"
    "cpufreq.governor:policy6": "schedutil"
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
    run_step("cpu_governor")


if __name__ == "__main__":
    main()
