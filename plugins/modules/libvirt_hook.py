#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: libvirt_hook
short_description: Let libvirt isolate the host when a virtual machine starts
version_added: 0.1.0
description:
  - Installs a libvirt hook. When one of the domains starts, the hook isolates the host for it, as a claim with the name
    of the domain. When the domain ends, for whatever reason, the hook reverts the claim. Several domains can start and
    stop in any order.
  - The hook isolates the CPUs that the XML of the domain pins its threads to, with C(vcpupin) or C(vcpu/@cpuset),
    C(emulatorpin) and C(iothreadpin).
  - The hook is C(/etc/libvirt/hooks/qemu.d/vfio-isolation), which libvirt 6.5 and newer runs. It starts the host runner
    in C(/usr/local/lib/vfio-isolation), which is the engine of this collection and does not need Ansible. When the hook
    is installed for the first time or removed, a running libvirt is reloaded. This does not affect its virtual
    machines. Those that run already get a claim when they are stopped and started again.
  - The hook logs what it does to the systemd journal. Read it with C(journalctl -t vfio-isolation).
  - On hosts with SELinux, the files get the labels of the policy. If the policy confines the daemon of libvirt, the
    hook needs the boolean C(virt_hooks_unconfined). The module warns if SELinux is enforcing and this boolean is off.
    The policies of RHEL 8 and 9 do not confine the daemon and do not have this boolean.
  - A libvirt of an ordinary user (C(qemu:///session)) also calls the hook, which then does nothing.
  - If the strategy is V(auto), the hook uses a partition only if everything that runs in the cgroup of the domain has a
    claim, because a partition would confine the rest to the CPUs of the claims. When a domain without a claim starts
    there, the existing claims continue without a partition until they end. libvirt does not report containers that
    start.
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
      - V(present) installs the hook.
      - V(absent) removes the hook and its configuration, and the host runner if nothing else needs it. It also
        reverts the claims that the hook has created. Domains that run continue without isolation.
    type: str
    choices: [present, absent]
    default: present
  domains:
    description:
      - The configuration of each domain, by the name of the domain. An empty dictionary means all defaults.
      - The keys are the variables of the role P(vfio.isolation.isolate#role), such as C(isolate_strategy), except
        C(isolate_claim), C(isolate_persist) and C(isolate_python). Set C(isolate_vm_cpus) and C(isolate_emulator_cpus)
        only to use CPUs other than those in the XML. C(isolate_cgroup) defaults to the cgroup in which libvirt puts the
        domain.
      - The key C(isolate_emulator) determines what happens to the CPUs of C(emulatorpin) and C(iothreadpin), unless
        C(isolate_emulator_cpus) is given. With V(reserve), they are taken from the host. With V(share), the host keeps
        them, and there is no partition, because it cannot share CPUs. The default V(auto) shares them if CPU 0 is
        among them, or if they are all CPUs that the virtual machines leave to the host. Otherwise, it reserves them.
      - The keys C(required) and C(timeout) are also accepted. See the options O(required) and O(timeout).
      - Domains that are not listed here are left alone, unless O(default) is given.
    type: dict
    default: {}
  default:
    description:
      - The configuration of all other domains, with the same keys as for a domain in O(domains).
      - If it is not given, other domains are left alone.
    type: dict
  required:
    description:
      - Whether a domain is kept from starting if its isolation fails. With V(false), the domain starts anyway, and the
        reason is in the systemd journal.
    type: bool
    default: true
  timeout:
    description:
      - How long isolating the host for a domain may take, from V(1) to V(3600) seconds. After that, it fails, and the
        hook has the same time again to restore what it has changed. Reverting the claim of a domain that has ended may
        take up to ten minutes.
    type: int
    default: 60
  python:
    description: The Python interpreter on the host that starts the host runner, version 3.8 or newer.
    type: path
    default: /usr/bin/python3
seealso:
  - module: vfio.isolation.transaction
  - module: vfio.isolation.isolation_facts
"""

EXAMPLES = r"""
---
- name: Isolate the host while win11 or audio run, each on the CPUs that its XML gives
  vfio.isolation.libvirt_hook:
    domains:
      win11: {}
      audio:
        isolate_governor: ""
        required: false
  become: true

- name: Isolate the host for every domain
  vfio.isolation.libvirt_hook:
    default: {}
  become: true

- name: Remove the hook
  vfio.isolation.libvirt_hook:
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
  sample: ["/etc/libvirt/hooks/qemu.d/vfio-isolation", "/etc/vfio-isolation/libvirt/domains/win11.json"]
claims:
  description: The names of the claims that were reverted, or in check mode would be.
  returned: success, if O(state) is V(absent)
  type: list
  elements: str
  sample: [win11]
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
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.libvirt import Libvirt
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.libvirt import check_name, confines_hooks
from ansible_collections.vfio.isolation.plugins.module_utils._host_files import hook_files
from ansible_collections.vfio.isolation.plugins.module_utils._install import Installation, check_python

ARGUMENTS: Dict[str, Any] = {"domains": {"type": "dict", "default": {}}, **_hooks.ARGUMENTS}


def call(module: AnsibleModule, engine: Engine) -> Dict[str, Any]:
    """Install or remove the hook."""
    given, check = module.params, module.check_mode
    installation = Installation(engine.host, check)
    if given["state"] == "absent":
        outcome, files = _hooks.remove(engine, Libvirt, check, installation.unhook)
        return with_files(module, to_result(module, outcome), files)
    domains, default = _hooks.read(given, "domains", check_name, checked)
    check_python(engine.host, given["python"])
    files = installation.hook(hook_files(domains, default, given["python"]))
    if confines_hooks(engine.host):
        module.warn(
            "SELinux is enforcing, and its boolean virt_hooks_unconfined is off: if the policy confines libvirt's"
            " daemon, the hook cannot isolate this host; allow it with setsebool -P virt_hooks_unconfined on"
        )
    return with_files(module, {"changed": False, "changes": []}, files)


def main() -> None:
    """Module entry point."""
    run(ARGUMENTS, call)


if __name__ == "__main__":
    main()
