# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: cpu_set
short_description: Format CPUs as a list of numbers
version_added: 0.1.0
description:
  - Turns CPUs into a sorted list of their numbers, which set filters such as P(ansible.builtin.difference#filter) take.
author:
  - Contributors to the vfio.isolation project (@vfio-isolation)
options:
  _input:
    description: A CPU list such as V(0-3,8), or a list of CPU numbers.
    type: raw
    required: true
"""

EXAMPLES = r"""
---
- name: Show the CPUs that two CPU lists have in common
  ansible.builtin.debug:
    msg: "{{ '0-7' | vfio.isolation.cpu_set | intersect('6-9' | vfio.isolation.cpu_set) | vfio.isolation.cpu_list }}"
"""

RETURN = r"""
---
_value:
  description: The numbers of the CPUs, sorted and without duplicates.
  type: list
  sample: [0, 1, 2, 3, 8]
"""

from ansible_collections.vfio.isolation.plugins.plugin_utils._cpu_input import cpu_filter

FilterModule = cpu_filter("cpu_set", sorted)
