# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: cpu_list
short_description: Format CPUs as a CPU list
version_added: 0.1.0
description:
  - Turns CPUs into a CPU list, the list format of the kernel.
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
- name: Show a CPU list
  ansible.builtin.debug:
    msg: "{{ [8, 0, 1, 2, 3] | vfio.isolation.cpu_list }}"
"""

RETURN = r"""
---
_value:
  description: The shortest CPU list.
  type: str
  sample: "0-3,8"
"""

from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import format_list
from ansible_collections.vfio.isolation.plugins.plugin_utils._cpu_input import cpu_filter

FilterModule = cpu_filter("cpu_list", format_list)
