# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What the modules libvirt_hook and proxmox_hook have in common: options, how they are checked, removal."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, Type

from ._engine.errors import IsolationError
from ._engine.hooks.events import LONGEST_TIMEOUT, OPTIONS, SETTINGS, Platform, event_lock
from ._engine.transaction.engine import Engine, Outcome

ARGUMENTS: Dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "default": {"type": "dict"},
    "python": {"type": "path", "default": "/usr/bin/python3"},
    **SETTINGS,
}

# Checks options by an argument spec: where they are, the spec, and what is given.
Check = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Dict[str, Any]]
Configurations = Dict[str, Dict[str, Any]]


def read(
    params: Mapping[str, Any], option: str, check_name: Callable[[str], object], check: Check
) -> Tuple[Configurations, Optional[Dict[str, Any]]]:
    """The configuration of each virtual machine in an option, and of all others. Raises IsolationError."""
    machines = {}
    for name, given in params[option].items():
        try:
            check_name(str(name))
        except ValueError as error:
            raise IsolationError(f"{option}: {error}") from None
        machines[str(name)] = _configuration(f"{option}: {name}", given, params, check)
    default = params["default"]
    return machines, None if default is None else _configuration("default", default, params, check)


def _configuration(
    where: str, given: Optional[Mapping[str, Any]], params: Mapping[str, Any], check: Check
) -> Dict[str, Any]:
    """What one is configured to, as far as it is given."""
    options = dict(given or {})
    values = check(where, OPTIONS, options)
    configured = {**{name: params[name] for name in SETTINGS}, **{option: values[option] for option in options}}
    if not 0 < configured["timeout"] <= LONGEST_TIMEOUT:
        raise IsolationError(f"{where}: timeout is {configured['timeout']}; expected 1 to {LONGEST_TIMEOUT} seconds")
    return configured


def remove(
    engine: Engine, platform: Type[Platform], check: bool, uninstall: Callable[[], Sequence[Any]]
) -> Tuple[Outcome, Sequence[Any]]:
    """Remove a hook, and revert its claims. Returns the outcome, and what `uninstall` returns."""
    # An event that waits meanwhile finds no configuration, so no virtual machine gets a claim any more.
    with contextlib.nullcontext() if check else event_lock(engine.host, platform.paths):
        outcome = engine.revert(None, check, created_by=platform.created_by)
        return outcome, uninstall()
