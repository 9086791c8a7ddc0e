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
  - Writes C(/proc/sys/vm/drop_caches), see C(Documentation/admin-guide/sysctl/vm.rst) of the kernel.
  - Only clean pages can be dropped, so dirty ones are written to disk first, see sync(2).
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
      - Without O(claim) it acts, and tells C(changed), every time.
      - With O(claim) it acts when the step is new to the claim.
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
      - V(false) is quicker, and frees less.
    type: bool
    default: true
notes:
  - What was dropped cannot be given back, the kernel reads it again when it is needed.
"""

EXAMPLES = r"""
---
- name: Drop all caches
  vfio.isolation.drop_caches:
  become: true

- name: Drop the page cache only, without writing dirty pages to disk first
  vfio.isolation.drop_caches:
    what: page_cache
    sync: false
  become: true
  register: dropped

- name: Tell how much memory that freed
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
  description: How much more memory was free afterwards, in bytes. V(0) where it was not more.
  returned: when caches were dropped, so not in check mode
  type: int
  sample: 1874329600
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
  sample: []
prior:
  description: >-
    The value that each changed setting had just before, by address. The option O(vfio.isolation.restore#module:prior)
    takes it.
  returned: success
  type: dict
  sample: {}
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
    run_step("drop_caches")


if __name__ == "__main__":
    main()
