# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What every step can do: it has options and a plan; an action acts as well."""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Mapping

from ..resources import Resources
from .view import View

ArgumentSpec = Mapping[str, Mapping[str, Any]]


class StepType:
    """One module that a transaction can list."""

    # Its options, as Ansible's argument spec.
    ARGUMENTS: ClassVar[ArgumentSpec] = {}
    # Whether it is an action: it runs if its claim is new or changes something, and is never reverted.
    acts = False

    def plan(self, arguments: Mapping[str, Any], view: View) -> None:
        """Assign values to settings. Raises IsolationError. An action claims nothing."""

    def act(self, arguments: Mapping[str, Any], resources: Resources) -> Dict[str, Any]:
        """Run the action. Returns what to report. Raises IsolationError."""
        raise NotImplementedError
