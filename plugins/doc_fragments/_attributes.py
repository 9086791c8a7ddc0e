# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What the modules of this collection support, for their documentation."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes: those of modules that change a host, and those of the facts module."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and report what it would change, without changing the host.
    support: full
  diff_mode:
    description: In diff mode, shows every changed setting with its value before and after.
    support: full
  idempotent:
    description: A second run with the same arguments changes nothing, unless something else has changed the host.
  platform:
    description: The operating systems that the module can manage.
    support: full
    platforms: linux
  action_group:
    description: Use C(group/vfio.isolation.isolation) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - vfio.isolation.isolation
"""

    # To be listed after the standard fragment.
    FACTS = r"""
options: {}
attributes:
  diff_mode:
    support: N/A
    details:
      - This module changes nothing.
  facts:
    description: Returns an C(ansible_facts) dictionary that is merged into the facts of the host.
    support: full
  idempotent:
    support: full
    details:
      - This module changes nothing.
"""
