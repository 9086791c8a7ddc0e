# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lives of hosts: claims come, change and go, by all doors, are killed and refused, while the host changes, too.

The oracle is a twin: the same host with the same events, and without any claim. When all claims are gone, the two must
not differ. It knows by itself what each claim is to have, and what each thread requested.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    baselines,
    engine,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import POSSIBLE
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    STOCK,
    Baseline,
    text_of,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.lives.events import (
    Apply,
    Begins,
    Binds,
    Ends,
    Event,
    Extend,
    Hotplug,
    Interrupt,
    Once,
    Reload,
    Revert,
    Unit,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.lives.host import Fault, Life
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.lives.wishes import (
    BELOW,
    OTHER,
    VMS,
    Confine,
    Govern,
    Mask,
    Reserve,
    Unbind,
)
from hypothesis import strategies as st


def bring_online(life: Life) -> None:
    """All CPUs."""
    for cpu in sorted(POSSIBLE - life.online):
        Hotplug(cpu).happens(life)


def live(baseline: Baseline, events: Sequence[Event], offline_at_the_end: bool) -> None:
    """One life, to its end."""
    with booted(baseline) as kernel, booted(baseline) as twin:
        life = Life(kernel, twin)
        for event in events:
            event.happens(life)
        if not offline_at_the_end:
            bring_online(life)
        engine(kernel).revert()
        bring_online(life)
        engine(kernel).revert()
        life.claims.clear()
        life.check_end()


# Random lives


def _some(low: int, high: int) -> st.SearchStrategy[str]:
    return st.sets(st.integers(low, high), min_size=1, max_size=3).map(frozenset).map(text_of)


def _reservations() -> st.SearchStrategy[Any]:
    # Mostly CPUs of their own, as VMs have them.
    cpus = st.sampled_from(["1", "2", "2-3", "4", "4-5", "5", "5-6", "6", "6-7", "7"]) | _some(1, 7)
    places = st.sampled_from([VMS, VMS, VMS, OTHER])
    plain = st.builds(Reserve, cpus, st.sampled_from(["partition", "slices"]), places, st.sampled_from(["", "", "3"]))
    return plain | st.builds(Reserve, cpus, st.just("slices"), st.just(BELOW))


def _wishes() -> st.SearchStrategy[Any]:
    govern = st.builds(Govern, _some(1, 7), st.sampled_from(["performance", "powersave"]))
    confine = st.builds(
        Confine,
        st.sampled_from(["/own.slice", "/user.slice", "/system.slice", "/made.slice"]),
        _some(0, 7),
        st.sampled_from(["set", "mask", "add"]),
    )
    reserve = _reservations()
    others = [st.builds(Mask, _some(1, 7)), st.builds(Unbind, _some(1, 7))]
    return st.one_of(reserve, reserve, govern, confine, *others)


def _events() -> st.SearchStrategy[Any]:
    claims = st.sampled_from(["a", "b", "c", "d"])
    fault = st.none() | st.builds(Fault, st.sampled_from(["kill", "refuse"]), st.integers(1, 60))
    wishes = st.lists(_wishes(), min_size=1, max_size=2, unique=True).map(tuple)
    places = st.sampled_from(["/", "/system.slice/a.service", "/own.slice", "/user.slice", "/new.slice"])
    return st.one_of(
        st.builds(Apply, claims, wishes, fault, st.sampled_from(["again", "revert"])),
        st.builds(Apply, claims, wishes, st.none(), st.just("again")),
        st.builds(Extend, claims, _wishes()),
        st.builds(Revert, claims, fault),
        st.builds(Once, _wishes()),
        st.builds(Hotplug, st.integers(1, 7)),
        st.builds(Begins, places, _some(0, 7)),
        st.builds(Ends, st.integers(0, 20)),
        st.builds(Binds, st.integers(0, 20), _some(0, 7)),
        st.just(Reload()),
        st.just(Unit("new.slice")),
        st.builds(Interrupt, st.integers(9, 10)),
    )


def lives() -> st.SearchStrategy[Any]:
    """A host, what happens to it, and whether CPUs are offline when its claims end."""
    return st.tuples(baselines(), st.lists(_events(), min_size=2, max_size=10), st.booleans())


def script(life: Any) -> str:
    """A life that fails, with as little as fails in the same way, for people."""
    baseline, events, offline_at_the_end = life

    def error_of(some: Sequence[Event]) -> Optional[str]:
        try:
            live(baseline, some, offline_at_the_end)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    known = str(error_of(events))
    position = 0
    while position < len(events):
        fewer = [*events[:position], *events[position + 1 :]]
        found = error_of(fewer)
        if found and found.partition(":")[0] == known.partition(":")[0]:
            events, known = fewer, found
        else:
            position += 1
    differing = {name: value for name, value in baseline._asdict().items() if value != getattr(STOCK, name)}
    lines = [f"baseline: {differing}", *map(repr, events), f"CPUs are offline at the end: {offline_at_the_end}"]
    return "\n".join([known, *lines])
