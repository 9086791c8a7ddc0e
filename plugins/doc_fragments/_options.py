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
      - All runs on one host take one lock, so that they happen one after the other.
    type: float
    default: 60.0
notes:
  - Needs root on the host, usually by C(become).
  - The host needs Python 3.8 or later and nothing else.
"""

    CLAIM = r"""
options:
  claim:
    description:
      - The claim to add this step to, such as the name of a virtual machine. The claim is made where it does not exist,
        and its other steps stand.
      - The journal C(/run/vfio-isolation/journal.json) then knows what was set before, and M(vfio.isolation.restore)
        with this claim gives it back, but for what other claims still want. Settings that drifted away from what any
        claim of this host wants are brought back in the same run.
      - Without a claim the step is carried out once and not recorded. RV(prior) is then the only way back.
    type: str
seealso:
  - module: vfio.isolation.transaction
  - module: vfio.isolation.restore
"""

    CPUS = r"""
options: {}
notes:
  - CPUs are given as a string of comma-separated terms, or as a list of such strings. Terms are read from left to
    right, each adds its CPUs. All of them must be online.
  - CPU numbers are written in the list format of the kernel, V(0-6,16-22); V(0-31:1/2) is the first CPU of every two.
    V(C0-6,16-22) means the same. V(N0-1) means the CPUs of NUMA nodes 0 and 1; bare numbers behind such a term are
    nodes, too, so V(N0,1) is the same as V(N0-1).
  - Topology terms are V(node:1) (NUMA node), V(package:0) (socket) and V(die:1) by number, V(core:3) (CPU 3 with its
    SMT siblings) and V(l3:0) (the CPUs that share the L3 cache of CPU 0) by CPU. They take ranges, too, V(core:4-7).
  - V(l3:largest) is the L3 domain with the most cache, such as the V-Cache die of an AMD X3D processor.
    V(type:performance) and V(type:efficiency) are the CPUs of a hybrid Intel processor.
  - V(vm:win11) is where the vCPUs of the libvirt domain C(win11) are pinned to, V(vm:win11:emulator) where its emulator
    and I/O threads are, as the domain's XML says below C(/etc/libvirt/qemu) of the host.
  - V(all) is every possible CPU, V(online) every online CPU, and V(isolated) those of the boot option C(isolcpus).
  - V(^) before a term leaves its CPUs out, V(N1,^core:8) or V(online,^0-3). It cannot be the first term.
"""
