# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Thread affinities under changing cpusets: what the kernel destroys, and what each thread is to get.

Changing a cpuset resets the affinity of the threads in it (user threads before Linux 6.2, kernel threads always).
So what each thread asked for, its wish, is recorded before, kept as far as it fits, and given back.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

from ..text.cpus import CpuSet

Tree = List[Tuple[str, List[str]]]


class Pin(NamedTuple):
    """A thread whose affinity is not just all of its cgroup's CPUs."""

    name: str  # TID:START
    cpus: CpuSet
    before: CpuSet  # the room that its cgroup gives it now
    after: CpuSet  # ... and will give it
    confined: bool = False  # whether it is us who bind it, where its cgroup has no cpuset to do so


def fit(wish: CpuSet, room: CpuSet) -> CpuSet:
    """What a thread gets of its wish: the part that is there, or all there is where nothing of it is."""
    return (wish & room) or room


def requested_affinity(pin: Pin, recorded: Optional[CpuSet], everything: CpuSet) -> CpuSet:
    """What a thread asked for: the recorded wish, unless its owner has changed the affinity since.

    It is unchanged where the thread has what we gave it, or what the kernel resets a thread to. One that has all of its
    room, and never had less that was recorded, asked for nothing: it is to have all that its cgroup gives.
    """
    if recorded is not None and (pin.confined or pin.cpus in (fit(recorded, pin.before), pin.before)):
        return recorded
    return everything if pin.cpus == pin.before else pin.cpus


def targets(
    pins: List[Pin], recorded: Mapping[str, CpuSet], certain: Mapping[str, CpuSet], everything: CpuSet
) -> Dict[str, Tuple[CpuSet, CpuSet]]:
    """For every pinned thread its wish, and the affinity that it is to have.

    A wish that is `certain` is not compared with what the thread has; `everything` are the CPUs of the host.
    """
    result = {}
    for pin in pins:
        wish = certain.get(pin.name) or requested_affinity(pin, recorded.get(pin.name), everything)
        result[pin.name] = (wish, fit(wish, pin.after))
    return result


def effective_cpus(
    configured: Dict[str, CpuSet], partitions: Dict[str, CpuSet], tree: Tree, online: CpuSet
) -> Dict[str, CpuSet]:
    """What the kernel makes of configured lists: the effective CPUs of every cgroup.

    `configured` holds the non-empty lists, `partitions` those of them that are valid partition roots, `tree` every
    cgroup with its children, parents first. A partition takes its CPUs from its parent; a member has what its list
    and its parent share, or all of its parent's where they share nothing.
    """
    effective: Dict[str, CpuSet] = {}
    whole: Dict[str, CpuSet] = {"/": online}
    for path, children in tree:
        own = whole[path]
        taken = frozenset().union(*(partitions[child] & own for child in children if child in partitions))
        effective[path] = own - taken
        for child in children:
            if child in partitions:
                whole[child] = partitions[child] & own
            else:
                whole[child] = (configured.get(child, frozenset()) & effective[path]) or effective[path]
    return effective
