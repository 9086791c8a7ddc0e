#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: drop_caches
short_description: Drop the page cache, slab objects or both
version_added: 0.1.0
description:
  - Frees the memory that the kernel uses for the page cache, for slab objects (dentries and inodes) or for both, so
    that a virtual machine finds free memory on its NUMA node.
  - Writes to C(/proc/sys/vm/drop_caches). See C(Documentation/admin-guide/sysctl/vm.rst) in the kernel sources.
  - The kernel can only drop clean pages, so dirty pages are written to disk first. See sync(2).
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
  what:
    description: What to drop.
    type: str
    choices:
      page_cache: The page cache.
      slab_objects: Reclaimable slab objects, such as dentries and inodes.
      all: Both.
    default: all
  sync:
    description:
      - Whether to write dirty pages to disk first.
      - V(false) is faster, but frees less.
    type: bool
    default: true
notes:
  - Dropped caches cannot be restored. The kernel reads the data again when it is needed.
"""

EXAMPLES = r"""
---
- name: Drop all caches
  vfio.isolation.drop_caches:
  become: true

- name: Drop only the page cache, without writing dirty pages to disk first
  vfio.isolation.drop_caches:
    what: page_cache
    sync: false
  become: true
  register: dropped

- name: Show how much memory that freed
  ansible.builtin.debug:
    msg: "{{ dropped.freed_bytes | default(0) | human_readable }} freed"

- name: Drop the caches once for this virtual machine, not at every run
  vfio.isolation.drop_caches:
    claim: win11
  become: true
"""

RETURN = r"""
---
freed_bytes:
  description: How much more memory was free afterwards, in bytes. V(0) if it was not more.
  returned: if caches were dropped, so not in check mode
  type: int
  sample: 1874329600
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
    run_step("drop_caches")


if __name__ == "__main__":
    main()
