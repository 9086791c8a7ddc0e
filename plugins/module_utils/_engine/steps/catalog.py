# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The table of steps: for each module that a transaction can list, its argument spec, its plan, its action."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from ..errors import IsolationError
from ..model import Step
from . import (
    compact_memory,
    cpu_governor,
    cpuset,
    drop_caches,
    irq_affinity,
    kthread_affinity,
    move_tasks,
    reserve_cpus,
)

STEPS: Dict[str, ModuleType] = {
    "compact_memory": compact_memory,
    "cpu_governor": cpu_governor,
    "cpuset": cpuset,
    "drop_caches": drop_caches,
    "irq_affinity": irq_affinity,
    "kthread_affinity": kthread_affinity,
    "move_tasks": move_tasks,
    "reserve_cpus": reserve_cpus,
}

COLLECTION = "vfio.isolation."
TYPES = {"str": str, "bool": bool, "int": int, "list": list, "dict": dict}
Item = Tuple[str, str, Dict[str, Any]]


def read_items(items: Sequence[Any]) -> List[Item]:
    """What a list of steps names: for each item where it stands, the module's name, its arguments.

    An item is a mapping of one module to its arguments; `when: false` beside it leaves it out. Raises IsolationError.
    """
    read = (_read_item(item, f"steps: item {position}") for position, item in enumerate(items, 1))
    return [item for item in read if item is not None]


def complete(name: str, given: Mapping[str, Any]) -> Dict[str, Any]:
    """A step's arguments with the defaults of those that are missing. Raises IsolationError."""
    if name not in STEPS:
        raise IsolationError(f"there is no step {name!r}; there are {', '.join(STEPS)}")
    return validated(name, STEPS[name].ARGUMENTS, given)


def validated(what: str, spec: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> Dict[str, Any]:
    """Options with the defaults of those that are missing, where no Ansible checks them. Raises IsolationError."""
    unknown = set(given) - set(spec)
    if unknown:
        raise IsolationError(f"{what} has no option {', '.join(sorted(unknown))}; it has {', '.join(spec)}")
    missing = [option for option in spec if spec[option].get("required") and given.get(option) is None]
    if missing:
        raise IsolationError(f"{what} needs {', '.join(missing)}")
    for option, value in given.items():
        kind = spec[option]["type"]
        is_number = not isinstance(value, bool)  # Python takes a bool for an int
        fits = isinstance(value, TYPES.get(kind, object)) and (is_number or kind in ("bool", "raw"))
        if value is not None and not fits:
            raise IsolationError(f"{what}: {option} is {value!r}; expected {kind}")
        choices = spec[option].get("choices")
        if choices and value is not None and value not in choices:
            raise IsolationError(f"{what}: {option} is {value!r}; expected one of {', '.join(choices)}")
    there = {option: value for option, value in given.items() if value is not None}
    return {option: there.get(option, spec[option].get("default")) for option in spec}


def read_steps(items: Sequence[Any]) -> List[Step]:
    """The steps of a list, each completed. Raises IsolationError."""
    steps = []
    for where, name, given in read_items(items):
        try:
            steps.append(Step(name, complete(name, given)))
        except IsolationError as error:
            raise IsolationError(f"{where}: {error}") from None
    return steps


def destinations(steps: Iterable[Step]) -> Set[str]:
    """The cgroups that steps move tasks to."""
    return {
        place
        for step in steps
        if hasattr(STEPS[step.name], "destinations")
        for place in STEPS[step.name].destinations(step.arguments)
    }


def _read_item(item: Any, where: str) -> Optional[Item]:
    named = {key: value for key, value in item.items() if key != "when"} if isinstance(item, Mapping) else {}
    if len(named) != 1:
        raise IsolationError(f"{where}: expected one module with its arguments, such as drop_caches: {{}}")
    ((name, arguments),) = named.items()
    short = str(name)[len(COLLECTION) :] if str(name).startswith(COLLECTION) else str(name)
    if short not in STEPS:
        raise IsolationError(f"{where}: there is no step {name!r}; there are {', '.join(STEPS)}")
    if not isinstance(arguments, (Mapping, type(None))):
        raise IsolationError(f"{where}: the arguments of {name} are no mapping")
    wanted = str(item.get("when", True)).lower()
    if wanted not in ("true", "false"):
        raise IsolationError(f"{where}: when is {item['when']!r}; expected true or false")
    return (where, short, dict(arguments or {})) if wanted == "true" else None
