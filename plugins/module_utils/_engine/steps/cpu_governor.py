# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""cpu_governor: the cpufreq governor (and energy preference) of the policies of some CPUs."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from ..errors import IsolationError
from ..planning.view import State
from ..text.cpus import format_list

ARGUMENTS: Dict[str, Any] = {
    "governor": {"type": "str", "required": True},
    "cpus": {"type": "raw", "default": "online"},
    "energy_preference": {"type": "str"},
    "if_unsupported": {"type": "str", "choices": ["fail", "skip"], "default": "fail"},
}


def plan(arguments: Mapping[str, Any], state: State) -> None:
    """Every policy that has one of the CPUs; the CPUs that share it go with them."""
    governor = arguments["governor"]
    cpus = state.evaluate(arguments["cpus"], "cpus")
    cpufreq = state.resources.cpufreq
    policies = [name for name, own in cpufreq.policies() if own & cpus]
    if not policies:
        sentence = f"CPUs {format_list(cpus)} have no cpufreq policy: the frequency is not up to this kernel"
        if arguments["if_unsupported"] == "fail":
            raise IsolationError(f"{sentence}; load a cpufreq driver, or leave this step out")
        state.skip("cpufreq.governor", sentence)
    for policy in policies:
        offered = cpufreq.governors(policy)
        if governor not in offered and not cpufreq.loadable(governor):
            raise IsolationError(
                f"governor: {policy} has no governor {governor!r} and the kernel no module cpufreq_{governor};"
                f" there are {', '.join(offered)}"
            )
        state.assign(f"cpufreq.governor:{policy}", governor)
        preference = arguments["energy_preference"]
        there = cpufreq.preferences(policy)
        if there and governor == "performance" and preference in (None, "performance"):
            # Active-mode drivers lock it to performance then: held, so that a revert gives it back.
            state.assign(f"cpufreq.preference:{policy}", "performance")
        elif preference is not None:
            if preference not in there and not (there and preference.isdigit()):
                offers = ", ".join(there) or "none"
                raise IsolationError(f"energy_preference: {policy} has no {preference!r}; there are {offers}")
            state.assign(f"cpufreq.preference:{policy}", preference)
