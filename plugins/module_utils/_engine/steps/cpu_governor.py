# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""cpu_governor: the cpufreq governor (and energy preference) of the policies of some CPUs."""

from __future__ import annotations

from typing import Any, ClassVar, Mapping, Optional, Sequence

from ..errors import IsolationError, quoted
from ..kernel.cpufreq import GOVERNOR, PREFERENCE
from ..model import Address
from ..planning.step_type import ArgumentSpec, StepType
from ..planning.view import View
from ..text.cpus import format_list, is_number


class CpuGovernor(StepType):
    """Every policy that has one of the CPUs; the other CPUs of that policy are affected, too."""

    ARGUMENTS: ClassVar[ArgumentSpec] = {
        "governor": {"type": "str", "required": True},
        "cpus": {"type": "raw", "default": "online"},
        "energy_preference": {"type": "str"},
        "if_unsupported": {"type": "str", "choices": ["fail", "skip"], "default": "fail"},
    }

    def plan(self, arguments: Mapping[str, Any], view: View) -> None:
        """The governor, and the preference that it locks or that was requested."""
        governor = arguments["governor"]
        cpus = view.evaluate(arguments["cpus"], "cpus")
        cpufreq = view.resources.cpufreq
        before = view.granted_before().get("policies", "").split(",")

        def now() -> str:  # a policy whose CPUs are all offline names none of them
            return ",".join(name for name, own in cpufreq.policies() if own & cpus or (not own and name in before))

        granted = view.grant("policies", now)
        policies = [name for name in granted.split(",") if name]
        if not policies:
            sentence = f"CPUs {format_list(cpus)} have no cpufreq policy: this kernel does not control their frequency"
            if arguments["if_unsupported"] == "fail":
                raise IsolationError(f"{sentence}; load a cpufreq driver, or leave this step out")
            view.skips.add(Address(GOVERNOR), sentence)
        for policy in policies:
            offered = cpufreq.governors(policy)
            is_offline = view.was_applied and not offered
            if governor not in offered and not is_offline and not cpufreq.loadable(governor):
                raise IsolationError(
                    f"governor: {policy} has no governor {quoted(governor)}, and the kernel has no module for it;"
                    f" there are {', '.join(offered)}"
                )
            view.assign(Address(GOVERNOR, policy), governor)
            preference = _preference(arguments, policy, cpufreq.preferences(policy))
            if preference is not None:
                view.assign(Address(PREFERENCE, policy), preference)


def _preference(arguments: Mapping[str, Any], policy: str, offered: Sequence[str]) -> Optional[str]:
    """The energy preference of a policy; None if it stays as it is."""
    asked: Optional[str] = arguments["energy_preference"]
    if offered and arguments["governor"] == "performance" and asked in (None, "performance"):
        return "performance"  # active-mode drivers lock it to that: held, so that a revert restores it
    if asked is not None and asked not in offered and not (offered and is_number(asked)):
        offers = ", ".join(offered) or "none"
        raise IsolationError(f"energy_preference: {policy} has no {quoted(asked)}; there are {offers}")
    return asked


STEP = CpuGovernor()
