# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: cputune
short_description: Pin a libvirt domain according to the topology of its host
version_added: 0.1.0
description:
  - Turns the topology of a host and a number of vCPUs into the elements of a libvirt domain that determine on which
    CPUs its threads run, C(<vcpu>), C(<iothreads>), C(<cputune>), C(<numatune>) and C(<cpu>) with its C(<topology>).
  - The filter assigns CPUs core by core, so that the SMT siblings of a core become neighboring vCPUs, and the guest
    sees them as siblings, too. On AMD processors, QEMU shows siblings to the guest only with the CPU feature
    C(topoext), so add C(<feature policy="require" name="topoext"/>) to C(<cpu>).
  - C(<numatune>) is present if the host has several NUMA nodes. It names those of the vCPUs, and instead of a node
    without memory, the nearest that has some. If that leaves a single node, its mode is C(preferred), otherwise
    C(strict).
  - See U(https://libvirt.org/formatdomain.html#cpu-tuning).
author:
  - Contributors to the vfio.isolation project (@vfio-isolation)
positional: _input
options:
  _input:
    description: >-
      The topology of the host, as M(vfio.isolation.isolation_facts) returns it in
      C(ansible_facts.vfio_isolation.topology).
    type: dict
    required: true
  vcpus:
    description: The number of vCPUs of the domain.
    type: int
    required: true
  cpus:
    description:
      - The CPUs that the vCPUs may use, in the CPU language of M(vfio.isolation.reserve_cpus), such as V(node:1),
        V(l3:8), V(l3:largest), V(type:performance) or V(8-15,24-31). Terms with V(vm:) cannot be used, because the
        topology does not contain domains.
      - The CPUs of the emulator threads and I/O threads are left out.
    type: raw
    default: online
  emulator_cpus:
    description: The CPUs of the emulator threads, in the CPU language. By default, they are not pinned.
    type: raw
    default: ""
  iothreads:
    description: The number of I/O threads of the domain.
    type: int
    default: 0
  iothread_cpus:
    description: The CPUs of the I/O threads, in the CPU language. The default is those of the emulator threads.
    type: raw
    default: ""
  siblings:
    description: Whether the vCPUs use all SMT siblings of a core. Otherwise, each vCPU has a core of its own.
    type: bool
    default: true
  vcpu_scheduler:
    description: >-
      The scheduler of the vCPUs, a dictionary of C(scheduler) (V(batch), V(idle), V(fifo) or V(rr)) and, for V(fifo)
      and V(rr), C(priority) (V(1) to V(99)). By default, no scheduler is set.
    type: dict
    default: {}
  iothread_scheduler:
    description: The scheduler of the I/O threads, with the same keys as O(vcpu_scheduler).
    type: dict
    default: {}
seealso:
  - module: vfio.isolation.isolation_facts
  - module: vfio.isolation.reserve_cpus
"""

EXAMPLES = r"""
---
- name: Read the topology of the host
  vfio.isolation.isolation_facts:
  become: true

- name: Show the pinning of a VM with 16 vCPUs on the second die, and its emulator and I/O threads on the core before it
  ansible.builtin.debug:
    msg: >-
      {{ ansible_facts.vfio_isolation.topology | vfio.isolation.cputune(vcpus=16, cpus='l3:8', emulator_cpus='core:7',
      iothreads=1, vcpu_scheduler={'scheduler': 'rr', 'priority': 1}) }}
"""

RETURN = r"""
---
_value:
  description: The elements as XML text, ready to be put into the XML of the domain.
  type: str
  sample: |
    <vcpu placement="static">2</vcpu>
    <cputune>
      <vcpupin vcpu="0" cpuset="8"/>
      <vcpupin vcpu="1" cpuset="24"/>
    </cputune>
    <cpu mode="host-passthrough">
      <topology sockets="1" cores="1" threads="2"/>
    </cpu>
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.validation import check_type_bool, check_type_int
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.plugin_utils._pinning import FactsTopology, elements, place, xml


def cputune(
    topology: Mapping[str, Any],
    vcpus: int,
    *,
    vcpu_scheduler: Mapping[str, Any] | None = None,
    iothread_scheduler: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """The elements of a domain. Raises AnsibleFilterError with what is wrong."""
    try:
        for option, check in (("iothreads", check_type_int), ("siblings", check_type_bool)):
            if option in options:  # a template often gives text
                options[option] = check(options[option])
        guest = place(FactsTopology(topology), check_type_int(vcpus), **options)
        return xml(elements(guest, vcpu_scheduler or {}, iothread_scheduler or {}))
    except (IsolationError, TypeError, ValueError, OverflowError) as error:  # of numbers that are none, or have no end
        raise AnsibleFilterError(f"cputune: {error}") from error


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {"cputune": cputune}
