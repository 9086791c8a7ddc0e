#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hugepages
short_description: Reserve huge pages on NUMA nodes
version_added: 0.1.0
description:
  - Reserves huge pages for virtual machines. The pool of a NUMA node then holds the pages that it held before any
    claim, and those that the claims reserve. What several claims reserve adds up.
  - Writes to C(/sys/devices/system/node/nodeN/hugepages/hugepages-SIZE/nr_hugepages). See
    C(Documentation/admin-guide/mm/hugetlbpage.rst) in the kernel sources.
  - It is an error if the kernel cannot give as many pages. Then everything is as it was before, and the message says
    how many the kernel could allocate. Free memory must be contiguous, so put M(vfio.isolation.drop_caches) and
    M(vfio.isolation.compact_memory) in front of this step. Pages of 1 GiB can often be reserved at boot only.
  - A revert sets the number of pages back. Pages that are still in use are freed by the kernel when they are not any
    more.
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
  pages:
    description: The number of pages to reserve on each of the NUMA nodes, 1 or more.
    type: int
    required: true
  size:
    description:
      - The size of the pages, such as V(2M), V(1G) or V(2048kB).
      - The default is the default size of the kernel, C(Hugepagesize) in C(/proc/meminfo).
    type: str
  nodes:
    description:
      - The NUMA nodes, each as a number or as a range in the list format of the kernel. V(N0) means the same as V(0).
      - The default is all NUMA nodes that have memory, so each of them gets O(pages).
    type: list
    elements: str
"""

EXAMPLES = r"""
---
- name: Reserve 8 GiB in pages of 2 MiB on the NUMA node that the virtual machine uses
  vfio.isolation.hugepages:
    pages: 4096
    size: 2M
    nodes: [1]
    claim: win11
  become: true

- name: Drop caches and compact memory before, all or nothing
  vfio.isolation.transaction:
    claim: win11
    steps:
      - drop_caches: {}
      - compact_memory:
          nodes: [1]
      - hugepages:
          pages: 4096
          nodes: [1]
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
    - {"address": "memory.hugepages:node0/2048kB", "before": "0", "after": "4096"}
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success
  type: dict
  sample:
    "memory.hugepages:node0/2048kB": "0"
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
    - address: memory.hugepages:node0/2048kB
      reason: "16 pages are still in use: the kernel frees each when it is no longer in use"
"""

from ansible_collections.vfio.isolation.plugins.module_utils._module import run_step


def main() -> None:
    """Module entry point."""
    run_step("hugepages")


if __name__ == "__main__":
    main()
