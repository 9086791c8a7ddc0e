#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: proxmox_hook
short_description: Let Proxmox VE isolate the host when a virtual machine starts
version_added: 0.1.0
description:
  - Installs a hookscript of Proxmox VE, and attaches it to virtual machines. When one of them starts, the hookscript
    isolates the host for it, as a claim with its ID as the name. When the virtual machine ends, for whatever reason,
    the claim is reverted. Several virtual machines can start and stop in any order.
  - The hookscript isolates the CPUs in the option C(affinity) of the virtual machine.
  - The hookscript is C(vfio-isolation) in the snippets of a storage. It starts the host runner in
    C(/usr/local/lib/vfio-isolation), which is the engine of this collection and does not need Ansible. It is attached
    with C(qm set --hookscript). A virtual machine that runs meanwhile continues to run, and gets its claim when it is
    stopped and started again. A reboot inside of the virtual machine is not enough.
  - In a cluster, use this module on every host that the virtual machine may run on, or a shared storage, because a
    virtual machine whose hookscript is missing does not start. List each virtual machine on the host that it is on.
  - Proxmox VE does not call a hookscript if QEMU fails to start, or after a migration to another host. Therefore, each
    start leaves a transient unit C(vfio-isolation-vm-VMID-PID.service) behind, which waits for the end of QEMU and then
    reverts the claim if the hookscript has not done so.
  - The hookscript logs what it does to the systemd journal. Read it with C(journalctl -t vfio-isolation).
  - If the strategy is V(auto), the hookscript uses a partition only if everything that runs in C(qemu.slice) has a
    claim, and if all virtual machines of the host have this hookscript, except templates. Otherwise, a virtual machine
    without the hookscript could start unnoticed, and a partition would confine it to the CPUs of the claims.
  - This module follows the documentation and the sources of Proxmox VE 8 and 9. It was tested with a model of the
    commands of Proxmox VE, and not with Proxmox VE itself.
author:
  - Contributors to the vfio.isolation project (@vfio-isolation)
extends_documentation_fragment:
  - vfio.isolation._attributes
  - vfio.isolation._options
attributes:
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) installs the hookscript, and attaches it to the virtual machines in O(vms). If one of them has
        another hookscript, this is an error.
      - V(absent) detaches the hookscript from all virtual machines of the host, and removes it with its configuration,
        and the host runner if nothing else needs it. It also reverts the claims that the hookscript has created.
        Virtual machines that run continue without isolation. The hookscript itself stays as long as a snapshot, or a
        virtual machine of another host, has it, because they would not start without it. It then does nothing.
    type: str
    choices: [present, absent]
    default: present
  vms:
    description:
      - The configuration of each virtual machine, by its ID. An empty dictionary means all defaults.
      - The keys are the variables of the role P(vfio.isolation.isolate#role), such as C(isolate_strategy), except
        C(isolate_claim), C(isolate_persist) and C(isolate_python). Set C(isolate_vm_cpus) only to use CPUs other than
        those of the option C(affinity). C(isolate_cgroup) defaults to C(qemu.slice), in which Proxmox VE runs virtual
        machines.
      - The keys C(required) and C(timeout) are also accepted. See the options O(required) and O(timeout).
      - Virtual machines that are not listed here are left alone, unless O(default) is given. A clone has the hookscript
        of its original, and is left alone as well.
    type: dict
    default: {}
  default:
    description:
      - The configuration of all other virtual machines that have the hookscript, with the same keys as in O(vms).
      - If it is not given, other virtual machines are left alone.
    type: dict
  storage:
    description: The storage for the hookscript. Its content types must include C(snippets).
    type: str
    default: local
  required:
    description:
      - Whether a virtual machine is kept from starting if its isolation fails. With V(false), it starts anyway, and the
        reason is in the systemd journal.
    type: bool
    default: true
  timeout:
    description:
      - How long isolating the host for a virtual machine may take, from V(1) to V(3600) seconds. After that, it fails,
        and the hookscript has the same time again to restore what it has changed. Reverting the claim of a virtual
        machine that has ended may take up to ten minutes.
    type: int
    default: 60
  python:
    description: The Python interpreter on the host that starts the host runner, version 3.8 or newer.
    type: path
    default: /usr/bin/python3
seealso:
  - module: vfio.isolation.libvirt_hook
  - module: vfio.isolation.transaction
  - module: vfio.isolation.isolation_facts
"""

EXAMPLES = r"""
---
- name: Isolate the host while VM 100 or 101 runs, each on the CPUs of its affinity
  vfio.isolation.proxmox_hook:
    vms:
      100: {}
      101:
        isolate_governor: ""
        required: false
  become: true

- name: Remove the hookscript
  vfio.isolation.proxmox_hook:
    state: absent
  become: true
"""

RETURN = r"""
---
files:
  description: >-
    The paths of the files that were written or removed, or in check mode would be. They belong to the host runner, to
    hooks and the virtual machines that these are attached to, and to persistent claims.
  returned: success
  type: list
  elements: str
  sample: ["/var/lib/vz/snippets/vfio-isolation", "/etc/pve/qemu-server/100.conf"]
claims:
  description: The names of the claims that were reverted, or in check mode would be.
  returned: success, if O(state) is V(absent)
  type: list
  elements: str
  sample: ["100"]
strategy:
  description: The strategy in use, V(partition), V(slices) or V(tasks).
  returned: success, if O(state) is V(absent), a claim was reverted, and a remaining claim reserves CPUs
  type: str
  sample: partition
strategy_reason:
  description: Why this strategy is used.
  returned: success, if O(state) is V(absent), a claim was reverted, and a remaining claim reserves CPUs
  type: str
  sample: cgroup v2, and Linux 6.1.0-40-amd64 has isolated cpuset partitions
vm_cpus:
  description: The CPUs that all claims of the host reserve together, as a CPU list.
  returned: success, if O(state) is V(absent), a claim was reverted, and a remaining claim reserves CPUs
  type: str
  sample: 4-7
host_cpus:
  description: The online CPUs that are left to the host, as a CPU list.
  returned: success, if O(state) is V(absent), a claim was reverted, and a remaining claim reserves CPUs
  type: str
  sample: 0-3
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
    - {"address": "cgroup.cpus:/machine.slice", "before": "4-7", "after": ""}
prior:
  description: >-
    The value that each changed setting had just before, by address. Pass it to the option
    O(vfio.isolation.restore#module:prior) to restore these values.
  returned: success, if O(state) is V(absent)
  type: dict
  sample:
    "cgroup.cpus:/machine.slice": "4-7"
left_alone:
  description: The settings that should be different but were left as they are, sorted by address.
  returned: success, if O(state) is V(absent)
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
    - {"address": "cgroup.exists:/machine.slice", "reason": "something runs in it, so it stays"}
"""

from typing import Any, Dict

from ansible_collections.vfio.isolation.plugins.module_utils._module import (
    AnsibleModule,
    Engine,
    checked,
    run,
    to_result,
    with_files,
)

# What is imported after that is compiled once.
# isort: split
from ansible_collections.vfio.isolation.plugins.module_utils import _hooks
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.proxmox import Proxmox
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.proxmox import check_id
from ansible_collections.vfio.isolation.plugins.module_utils._host_files import hookscript_files
from ansible_collections.vfio.isolation.plugins.module_utils._install import check_python
from ansible_collections.vfio.isolation.plugins.module_utils._proxmox import Hookscript

ARGUMENTS: Dict[str, Any] = {
    "vms": {"type": "dict", "default": {}},
    "storage": {"type": "str", "default": "local"},
    **_hooks.ARGUMENTS,
}


def call(module: AnsibleModule, engine: Engine) -> Dict[str, Any]:
    """Install or remove the hookscript."""
    given, check = module.params, module.check_mode
    hookscript = Hookscript(engine.host, check)
    if given["state"] == "absent":
        with hookscript.detached() as detached:
            outcome, files = _hooks.remove(engine, Proxmox, check, hookscript.uninstall)
        hookscript.stop_watching()
        return with_files(module, to_result(module, outcome), [*files, *detached])
    vms, default = _hooks.read(given, "vms", check_id, checked)
    check_python(engine.host, given["python"])
    snippet = hookscript.on(given["storage"])
    files = hookscript.install(snippet, hookscript_files(snippet, vms, default, given["python"]), list(vms))
    for name in hookscript.without_cpus([name for name, options in vms.items() if not options.get("isolate_vm_cpus")]):
        module.warn(
            f"VM {name} has no affinity, so isolating the host for it will fail; set it, for example with qm set {name}"
            " --affinity 4-7, or set isolate_vm_cpus"
        )
    return with_files(module, {"changed": False, "changes": []}, files)


def main() -> None:
    """Module entry point."""
    run(ARGUMENTS, call)


if __name__ == "__main__":
    main()
