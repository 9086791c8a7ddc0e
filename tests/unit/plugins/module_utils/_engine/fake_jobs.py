# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to a FakeKernel: the role's list of steps, random baselines, and who looks at the result."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Set

from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Step
from ansible_collections.vfio.isolation.plugins.module_utils._engine.steps.catalog import STEPS
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    address_of,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import Difference
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    FIXED,
    KERNEL_THREAD,
    Baseline,
    Given,
    Killed,
    Task,
    text_of,
)
from hypothesis import strategies as st

STRATEGIES = ("partition", "slices")
# Where the list of a unit may be said, see `Given`.
SOURCES = ("file", "override", "persistent", "runtime", "generator", "vendor", "prefix", "hiding", "type")


def engine(kernel: FakeKernel) -> Engine:
    """A new process on this host."""
    return Engine(kernel, 0.1)


def step(name: str, **given: Any) -> Step:
    """A step with its defaults filled in."""
    spec = STEPS[name].ARGUMENTS
    assert set(given) <= set(spec), given
    return Step(name, {option: given.get(option, spec[option].get("default")) for option in spec})


def whole_job(cpus: str, strategy: str, emulator: str = "", governor: str = "performance") -> List[Step]:
    """The role's steps, in its order."""
    return [
        step("drop_caches", sync=False),
        step("cpu_governor", cpus=cpus, governor=governor),
        step("reserve_cpus", cpus=cpus, emulator_cpus=emulator, strategy=strategy),
        step("compact_memory"),
        step("irq_affinity", cpus=cpus),
    ]


def kill_at(count: int) -> Callable[[str], None]:
    """A watcher that kills the process right after its write number `count`."""
    left = [count]

    def watch(what: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed(what)

    return watch


def pinned(kernel: FakeKernel) -> Set[int]:
    """The threads that have less than their cgroup's CPUs."""
    return {t for t, task in kernel.threads.items() if task.cpus != kernel.effective(task.cgroup)}


def changed_addresses(before: Dict[str, Any], after: Dict[str, Any], threads: Set[int]) -> Set[str]:
    """What differs between two snapshots, as addresses; of threads only these."""
    found = set()
    for line in set(before) | set(after):
        seen = Difference(line, before.get(line), after.get(line))
        address = address_of(seen) if seen.old != seen.new else None
        if address and (not address.startswith("task.affinity:") or int(address.split(":")[1]) in threads):
            found.add(address)
    return found


# Random hosts


def some_cpus(low: int = 0, high: int = 7) -> st.SearchStrategy[str]:
    """A CPU list."""
    return st.sets(st.integers(low, high), min_size=1).map(frozenset).map(text_of)


def _tasks() -> st.SearchStrategy[Any]:
    places = st.sampled_from(
        [
            "/",
            "/init.scope",
            "/system.slice/a.service",
            "/system.slice/b.service",
            "/own.slice",
            "/user.slice/user-1000.slice",
        ]
    )
    user = st.builds(Task, places, some_cpus(), st.just(0))
    kernel = st.builds(Task, st.just("/"), some_cpus(), st.sampled_from([KERNEL_THREAD, KERNEL_THREAD | FIXED]))
    return st.lists(st.one_of(user, kernel), max_size=10).map(tuple)


def _units() -> st.SearchStrategy[Any]:
    unit = st.sampled_from(["system.slice", "user.slice", "init.scope", "own.slice", "a.service", "machine.slice"])
    given_cpus = st.builds(Given, st.sampled_from(SOURCES), some_cpus())
    return st.dictionaries(unit, given_cpus, max_size=3).map(lambda units: tuple(sorted(units.items())))


def baselines() -> st.SearchStrategy[Baseline]:
    """Hosts that differ in all that a claim may touch."""
    return st.builds(
        Baseline,
        systemd=st.sampled_from([True, True, False]),
        remembers=st.booleans(),
        isolated_only=st.booleans(),
        refuses_by_mode=st.booleans(),
        resets=st.booleans(),
        partitions=st.booleans(),
        delegated=st.booleans(),
        machine_slice=st.booleans(),
        units=_units(),
        governors=st.tuples(*4 * [st.sampled_from(["performance", "powersave", "ondemand", "schedutil"])]),
        preferences=st.none() | st.tuples(*4 * [st.sampled_from(["power", "balance_power", "default"])]),
        irqs=st.lists(some_cpus(), min_size=1, max_size=5).map(tuple),
        managed=st.sets(st.integers(0, 4), max_size=2).map(frozenset),
        default_irq=some_cpus(),
        tasks=_tasks(),
    )


def jobs(low: int = 1, high: int = 7) -> st.SearchStrategy[List[Step]]:
    """The whole job for some VM's CPUs."""
    return st.builds(whole_job, some_cpus(low, high), st.sampled_from(STRATEGIES), st.just("") | some_cpus(low, high))
