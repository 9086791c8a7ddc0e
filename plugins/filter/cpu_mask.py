# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: cpu_mask
short_description: Format CPUs as a CPU mask
version_added: 0.1.0
description:
  - Turns CPUs into a CPU mask, as C(/proc/irq/default_smp_affinity) takes it.
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
- name: Show a CPU mask
  ansible.builtin.debug:
    msg: "{{ '0-3,8' | vfio.isolation.cpu_mask }}"
"""

RETURN = r"""
---
_value:
  description: The CPU mask in hexadecimal, in groups of 32 bits.
  type: str
  sample: "10f"
"""

from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import format_mask
from ansible_collections.vfio.isolation.plugins.plugin_utils._cpu_input import cpu_filter

FilterModule = cpu_filter("cpu_mask", format_mask)
