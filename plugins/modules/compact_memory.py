#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: compact_memory
short_description: Compact the free memory of NUMA nodes
version_added: 0.1.0
description:
  - Moves pages together so that free memory becomes contiguous and a virtual machine can get huge pages.
  - Writes to C(/sys/devices/system/node/nodeN/compact) of each NUMA node. See
    C(Documentation/ABI/stable/sysfs-devices-node) in the kernel sources. The kernel needs C(CONFIG_COMPACTION).
  - Works best after M(vfio.isolation.drop_caches).
author:
  - Contributors to the vfio.isolation project (@vfio-isolation)
extends_documentation_fragment:
  - vfio.isolation._attributes
  - vfio.isolation._options
  - vfio.isolation._options.claim
attributes:
  idempotent:
    support: partial
    details:
      - Without O(claim), the module acts and reports C(changed) every time.
      - With O(claim), the module acts only if the step is new to the claim.
options:
  nodes:
    description:
      - The NUMA nodes to compact, each as a number or as a range in the list format of the kernel. V(N0) means the same
        as V(0).
      - The default is all NUMA nodes that have memory.
    type: list
    elements: str
"""

EXAMPLES = r"""
---
- name: Compact the memory of all NUMA nodes
  vfio.isolation.compact_memory:
  become: true

- name: Compact the memory of the NUMA nodes that the virtual machine uses
  vfio.isolation.compact_memory:
    nodes:
      - 1
      - 2-3
    claim: win11
  become: true

- name: Fail if fewer than 512 huge pages would fit afterwards
  vfio.isolation.compact_memory:
    nodes: 0
  become: true
  register: compacted
  failed_when: compacted.free_huge_blocks[0].after < 512
"""

RETURN = r"""
---
free_huge_blocks:
  description: >-
    The free blocks of the size of the default huge page, for each NUMA node that was compacted. A larger free block
    counts as several. See C(/proc/buddyinfo).
  returned: if memory was compacted, so not in check mode
  type: list
  elements: dict
  contains:
    node:
      description: The number of the NUMA node.
      type: int
    before:
      description: The number of free blocks before.
      type: int
    after:
      description: The number of free blocks after.
      type: int
  sample:
    - {"node": 0, "before": 311, "after": 1490}
    - {"node": 1, "before": 87, "after": 1523}
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
  sample: []
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success
  type: dict
  sample: {}
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
    run_step("compact_memory")


if __name__ == "__main__":
    main()
