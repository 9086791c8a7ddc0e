#!/usr/bin/python

# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: libvirt_hook
short_description: Have libvirt isolate the host for a virtual machine that starts
version_added: 0.1.0
description:
  - Installs a hook of libvirt. When one of the domains starts, the host is isolated for it, as a claim with the name of
    the domain. When it has ended, however that comes, its claim is given back. Several domains may come and go in any
    order.
  - The CPUs are those that the XML of the domain pins its threads to, C(vcpupin) or C(vcpu/@cpuset), C(emulatorpin) and
    C(iothreadpin).
  - The hook is C(/etc/libvirt/hooks/qemu.d/vfio-isolation), which libvirt 6.5 and newer runs. It starts the host runner
    in C(/usr/local/lib/vfio-isolation), which is this collection's engine and needs no Ansible. A libvirt that runs and
    has not had it before is told to reload, which its virtual machines do not notice.
  - What the hook does is in the journal of the system, C(journalctl -t vfio-isolation).
  - Where the strategy is left to V(auto), a partition is taken only if all that runs in the cgroup of the domain has
    a claim, for it would confine the others to the CPUs of the claims. When another domain starts there, the claims go
    on without a partition until they end. Of a container that comes, libvirt tells nothing.
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
      - V(absent) removes it with its configuration, and the host runner where no claim needs it at boot. The claims of
        domains that run are given back.
    type: str
    choices: [present, absent]
    default: present
  domains:
    description:
      - What each domain is configured to, by its name. An empty dictionary takes all defaults.
      - The keys are the variables of the role P(vfio.isolation.isolate#role), such as C(isolate_strategy), but for
        C(isolate_claim) and C(isolate_persist). C(isolate_vm_cpus) and C(isolate_emulator_cpus) are only for those who
        want others than the XML says. C(isolate_cgroup) is by default where libvirt puts the domain.
      - Besides, V(required) and V(timeout) are taken, see the options O(required) and O(timeout).
      - Domains that are not named here are left alone, unless there is a O(default).
    type: dict
    default: {}
  default:
    description: What all other domains are configured to, likewise.
    type: dict
  required:
    description:
      - Whether a domain does not start where its isolation fails. Otherwise it starts all the same, and the reason is
        in the journal of the system.
    type: bool
    default: true
  timeout:
    description:
      - How long isolating for a domain may take, in seconds. After that it fails, and has as long again to give back
        what it has changed. Giving back the claim of a domain that has ended may take ten minutes.
    type: int
    default: 60
  python:
    description: The Python of the host that the host runner is started with, 3.8 or newer.
    type: path
    default: /usr/bin/python3
seealso:
  - module: vfio.isolation.transaction
  - module: vfio.isolation.isolation_facts
"""

EXAMPLES = r"""
---
- name: Isolate the host while win11 or audio run, each on the CPUs that its XML says
  vfio.isolation.libvirt_hook:
    domains:
      win11: {}
      audio:
        isolate_governor: ""
        required: false
  become: true

- name: Do so for every domain
  vfio.isolation.libvirt_hook:
    default: {}
  become: true

- name: Remove all of it
  vfio.isolation.libvirt_hook:
    state: absent
  become: true
"""

RETURN = r"""
---
files:
  description: The files that were written or removed, or in check mode would be, by path.
  returned: success
  type: list
  elements: str
  sample: ["/etc/libvirt/hooks/qemu.d/vfio-isolation", "/etc/vfio-isolation/libvirt/domains/win11.json"]
claims:
  description: The claims of domains that were given back, or in check mode would be.
  returned: success, where O(state) is V(absent)
  type: list
  elements: str
  sample: [win11]
changes:
  description: The settings that giving them back changed, or in check mode would change, sorted by address.
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
  sample:
    - {"address": "cgroup.cpus:/machine.slice", "before": "4-7", "after": ""}
"""

import contextlib
from typing import Any, Dict, Mapping, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.libvirt import check_name
from ansible_collections.vfio.isolation.plugins.module_utils._engine.libvirt.events import (
    CREATED_BY,
    LONGEST_TIMEOUT,
    SETTINGS,
    event_lock,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.libvirt.role_steps import VARIABLES
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.plugins.module_utils._host_files import hook_files
from ansible_collections.vfio.isolation.plugins.module_utils._install import Installation, check_python
from ansible_collections.vfio.isolation.plugins.module_utils._module import run, to_result, with_files

ARGUMENTS: Dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "domains": {"type": "dict", "default": {}},
    "default": {"type": "dict"},
    "python": {"type": "path", "default": "/usr/bin/python3"},
    **SETTINGS,
}


def call(module: AnsibleModule, engine: Engine) -> Dict[str, Any]:
    """Install or remove the hook."""
    given = module.params
    installation = Installation(engine.host, module.check_mode)
    if given["state"] == "absent":
        # An event that waits meanwhile finds no configuration, so no domain gets a claim any more.
        with event_lock(engine.host) if not module.check_mode else contextlib.nullcontext():
            files = installation.unhook()
            outcome = engine.revert(None, module.check_mode, created_by=CREATED_BY)
        return with_files(module, to_result(module, outcome), files)
    common = {name: given[name] for name in SETTINGS}
    domains = {name: _checked(f"domains: {name}", options, common) for name, options in given["domains"].items()}
    for name in domains:
        try:
            check_name(name)
        except ValueError as error:
            raise IsolationError(f"domains: {error}") from None
    default = None if given["default"] is None else _checked("default", given["default"], common)
    check_python(engine.host, given["python"])
    files = installation.hook(hook_files(domains, default, given["python"]))
    return with_files(module, {"changed": False, "changes": []}, files)


def _checked(where: str, given: Optional[Mapping[str, Any]], common: Mapping[str, Any]) -> Dict[str, Any]:
    """What a domain is configured to, as far as it is given, checked as the role would check it."""
    options = dict(given or {})
    checked = ArgumentSpecValidator({**VARIABLES, **SETTINGS}).validate(options)
    if checked.error_messages:
        raise IsolationError(f"{where}: {'; '.join(checked.error_messages)}")
    configured = {**common, **{option: checked.validated_parameters[option] for option in options}}
    if not 0 < configured["timeout"] <= LONGEST_TIMEOUT:
        raise IsolationError(f"{where}: timeout is {configured['timeout']}; expected 1 to {LONGEST_TIMEOUT} seconds")
    return configured


def main() -> None:
    """Be the module."""
    run(ARGUMENTS, call)


if __name__ == "__main__":
    main()
