# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The table of steps: each module that a transaction can list. Only those that a host uses are imported."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Tuple

from ..arguments import read_item, validated
from ..errors import IsolationError, quoted
from ..model import Step
from ..planning.step_type import StepType

TYPE_CHECKING = False
if TYPE_CHECKING:  # Ansible copies to a host what it finds imported anywhere
    from . import (  # noqa: F401 - see above
        compact_memory,
        cpu_governor,
        cpuset,
        drop_caches,
        hugepages,
        irq_affinity,
        kthread_affinity,
        move_tasks,
        reserve_cpus,
    )

NAMES = (
    "compact_memory",
    "cpu_governor",
    "cpuset",
    "drop_caches",
    "hugepages",
    "irq_affinity",
    "kthread_affinity",
    "move_tasks",
    "reserve_cpus",
)

Item = Tuple[str, str, Dict[str, Any]]


class _Steps(Mapping[str, StepType]):
    """Each step by its name, imported when it is first used."""

    def __getitem__(self, name: str) -> StepType:
        if name not in NAMES:
            raise KeyError(name)
        # Not import_module(), which -X importtime does not show.
        step: StepType = __import__(f"{__package__}.{name}", fromlist=["STEP"]).STEP
        return step

    def __contains__(self, name: object) -> bool:
        return name in NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


STEPS = _Steps()


def read_items(items: Any) -> List[Item]:
    """What a list of steps names: for each item its position, the module's name, its arguments.

    An item is a mapping of one module to its arguments; `when: false` beside it leaves it out. Raises IsolationError.
    """
    if not isinstance(items, (list, tuple)):
        raise IsolationError(f"steps: {quoted(items)} is not a list of steps")
    found: List[Item] = []
    for position, item in enumerate(items, 1):
        where = f"steps: item {position}"
        named = read_item(item, where)
        if named is None:
            continue
        name, arguments = named
        if name not in STEPS:
            raise IsolationError(f"{where}: there is no step {quoted(name)}; there are {', '.join(STEPS)}")
        if not isinstance(arguments, (Mapping, type(None))):
            raise IsolationError(f"{where}: the arguments of {name} are not a mapping")
        found.append((where, name, dict(arguments or {})))
    return found


def complete(name: str, given: Mapping[str, Any]) -> Dict[str, Any]:
    """A step's arguments with the defaults of those that are missing. Raises IsolationError."""
    if name not in STEPS:
        raise IsolationError(f"there is no step {quoted(name)}; there are {', '.join(STEPS)}")
    return validated(name, STEPS[name].ARGUMENTS, given)


def read_steps(items: Any) -> List[Step]:
    """The steps of a list, each completed. Raises IsolationError."""
    steps = []
    for where, name, given in read_items(items):
        try:
            steps.append(Step(name, complete(name, given)))
        except IsolationError as error:
            raise IsolationError(f"{where}: {error}") from None
    return steps
