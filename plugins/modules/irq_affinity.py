#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: irq_affinity
short_description: Set the CPUs that may handle interrupts
version_added: 0.1.0
description:
  - Keeps interrupts off CPUs, allows them on more CPUs, or binds them to CPUs.
  - O(irqs), O(names) and O(pci) together select the interrupts. If none of these is given, the module changes all
    interrupts, the default affinity of new interrupts, and the CPUs that irqbalance keeps interrupts off.
  - Writes to C(/proc/irq/N/smp_affinity_list) and C(/proc/irq/default_smp_affinity). See
    C(Documentation/core-api/irq/irq-affinity.rst) in the kernel sources. Configures irqbalance through its socket. See
    irqbalance(1).
  - The kernel does not let some interrupts move, such as the managed IRQs of NVMe queues. They are reported in
    RV(left_alone) and are not an error.
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
  operation:
    description: What to do with the CPUs.
    type: str
    choices:
      mask: >-
        No interrupt may use these CPUs. An interrupt that had no other online CPU gets all other online CPUs. An
        interrupt that irqbalance moves between the other CPUs is left where it is.
      add: The interrupts may use these CPUs in addition to their own.
      set: The interrupts may use exactly these CPUs.
    default: mask
  cpus:
    description: The CPUs, in the CPU language (see the notes).
    type: raw
    required: true
  irqs:
    description: Interrupts by number, as in C(/proc/interrupts).
    type: list
    elements: int
  names:
    description:
      - Interrupts by the name of a handler, as in C(/proc/interrupts), with the wildcards V(*), V(?) and V([]).
      - It is an error if nothing matches a pattern.
    type: list
    elements: str
  pci:
    description:
      - The interrupts of PCI devices by address, such as V("0000:01:00.0"), with the domain.
      - Quote the address, because YAML reads some addresses as a number.
    type: list
    elements: str
  default:
    description:
      - Whether to change the default affinity, which new interrupts get.
      - By default, it is changed if none of O(irqs), O(names) and O(pci) is given.
    type: bool
  irqbalance:
    description:
      - Whether to configure a running irqbalance, too, without a restart. V(mask) bans the CPUs, V(add) allows them,
        and V(set) bans all others.
      - By default, irqbalance is configured if none of O(irqs), O(names) and O(pci) is given and O(operation=mask).
      - irqbalance forgets the banned CPUs when it restarts. M(vfio.isolation.isolation_facts) then reports the drift.
    type: bool
"""

EXAMPLES = r"""
---
- name: Keep all interrupts off the CPUs of the virtual machine
  vfio.isolation.irq_affinity:
    cpus: 4-7
    claim: win11
  become: true

- name: Bind the interrupts of the passed-through GPU to its own NUMA node
  vfio.isolation.irq_affinity:
    operation: set
    cpus: node:1
    pci:
      - "0000:01:00.0"
      - "0000:01:00.1"
    claim: win11
  become: true

- name: Bind the queues of a network card to CPU 2 and its SMT siblings
  vfio.isolation.irq_affinity:
    operation: set
    cpus: core:2
    names:
      - eth0-TxRx-*
  become: true

- name: Change only the default affinity, which new interrupts get
  vfio.isolation.irq_affinity:
    cpus: 4-7
    irqs: []
    default: true
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
    - {"address": "irq.affinity:24", "before": "0-7", "after": "0-3"}
    - {"address": "irq.default:", "before": "0-7", "after": "0-3"}
    - {"address": "irqbalance.banned:412:873", "before": "", "after": "4-7"}
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success
  type: dict
  sample:
    "irq.affinity:24": "0-7"
    "irq.default:": "0-7"
    "irqbalance.banned:412:873": ""
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

from ansible_collections.vfio.isolation.plugins.module_utils._module import run_step


def main() -> None:
    """Module entry point."""
    run_step("irq_affinity")


if __name__ == "__main__":
    main()
