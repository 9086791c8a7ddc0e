# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Filters that take CPUs as people write them, and write them in another form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import CpuSet, parse_list


def read_cpus(given: Any) -> CpuSet:
    """A CPU list, a number, or a list of these. Raises ValueError with what was expected."""
    items = given if isinstance(given, (list, tuple, set, frozenset)) else [given]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise ValueError("expected a CPU list such as 0-3,8, or a list of CPU numbers")
    return parse_list(",".join(str(item) for item in items))


def _shown(given: Any) -> str:
    try:
        return repr(given)
    except ValueError:  # Python has a limit for numbers
        return "a number with too many digits"


def cpu_filter(name: str, write: Callable[[CpuSet], Any]) -> type:
    """The FilterModule of the filter with that name, which raises AnsibleFilterError if its input is not valid."""

    def apply(cpus: Any) -> Any:
        try:
            return write(read_cpus(cpus))
        except ValueError as error:
            raise AnsibleFilterError(f"{name}: {_shown(cpus)}: {error}") from error

    class FilterModule:
        """The filter."""

        def filters(self) -> dict[str, Callable[[Any], Any]]:
            """By name."""
            return {name: apply}

    return FilterModule
