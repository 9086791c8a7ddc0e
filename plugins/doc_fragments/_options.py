# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Options and notes that several modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """What every module takes, the claim of a step, and the CPU language."""

    DOCUMENTATION = r"""
options:
  lock_timeout:
    description:
      - How long to wait for another run on the same host, in seconds.
      - All runs on a host take the same lock, so they happen one after the other.
    type: float
    default: 60.0
notes:
  - Needs root on the host, usually through C(become).
  - The host needs Python 3.8 or later and nothing else.
"""

    CLAIM = r"""
options:
  claim:
    description:
      - The claim to add this step to, such as the name of a virtual machine. If the claim does not exist, it is
        created. If it exists, its other steps stay.
      - The journal C(/run/vfio-isolation/journal.json) then records the previous values. M(vfio.isolation.restore) with
        this claim restores them, except for what other claims still need. Settings that have drifted from what any
        claim of this host wants are corrected in the same run.
      - Without a claim, the step is applied once and not recorded. RV(prior) is then the only way to restore the
        previous values.
    type: str
seealso:
  - module: vfio.isolation.transaction
  - module: vfio.isolation.restore
"""

    CPUS = r"""
options: {}
notes:
  - CPUs are given as a string of comma-separated terms, or as a list of such strings. Terms are read from left to
    right, and each adds its CPUs. All CPUs must be online, except for those of V(all).
  - CPU numbers are written in the list format of the kernel, such as V(0-6,16-22). V(0-31:1/2) is the first CPU of
    every two. V(C0-6,16-22) means the same as V(0-6,16-22). V(N0-1) means the CPUs of NUMA nodes 0 and 1. Plain numbers
    after such a term are NUMA nodes, too, so V(N0,1) means the same as V(N0-1).
  - Topology terms by number are V(node:1) (NUMA node), V(package:0) (socket) and V(die:1). If several packages have
    a die of that number, the package is in front, as in V(die:1.0). Topology terms by CPU are V(core:3) (CPU 3 with its
    SMT siblings) and V(l3:0) (the CPUs that share the L3 cache of CPU 0). They also take ranges, such as V(core:4-7).
  - V(l3:largest) is the L3 domain with the most cache, such as the V-Cache die of an AMD X3D processor.
    V(type:performance) and V(type:efficiency) are the CPUs of that type in a hybrid processor, by what the kernel says
    of it (the perf units of Intel processors, C(cpu_capacity), or C(acpi_cppc/highest_perf)).
  - V(vm:win11) means the CPUs that the vCPUs of the libvirt domain C(win11) are pinned to. V(vm:win11:emulator) means
    those that its emulator and I/O threads are pinned to. Both are read from the XML of the domain, below
    C(/etc/libvirt/qemu) on the host, or below C(/run/libvirt/qemu) for a running domain that is not persistent.
  - V(all) means all possible CPUs, V(online) all online CPUs, and V(isolated) those that the boot option C(isolcpus)
    isolates.
  - V(^) before a term leaves its CPUs out, such as V(N1,^core:8) or V(online,^0-3). It cannot be before the first term.
"""
