# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Thread affinities under changing cpusets: what the kernel destroys, and what each thread gets instead.

Changing a cpuset resets the affinity of the threads in it (user threads before Linux 6.2, kernel threads always).
So the affinity that each thread requested is recorded before, kept as far as it fits, and restored.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

from ..text.cpus import CpuSet

Tree = List[Tuple[str, List[str]]]


class Pin(NamedTuple):
    """A thread whose affinity is not just all of its cgroup's CPUs."""

    name: str  # as an address names it
    cpus: CpuSet
    before: CpuSet  # the effective CPUs of its cgroup now
    after: CpuSet  # ... and then
    confined: bool = False  # whether it is us who bind it, because its cgroup has no cpuset to do so


def fit(requested: CpuSet, effective: CpuSet) -> CpuSet:
    """What a thread gets of its requested affinity: the part that is effective, or all that is if nothing of it is."""
    return (requested & effective) or effective


def requested_affinity(pin: Pin, recorded: Optional[CpuSet], everything: CpuSet) -> CpuSet:
    """What a thread requested: as recorded, unless its owner changed the affinity since.

    It is unchanged if the thread has what we gave it, or what the kernel resets a thread to. One that has all effective
    CPUs, and never had less that was recorded, requested nothing: it is to have all that its cgroup gives.
    """
    if recorded is not None and (pin.confined or pin.cpus in (fit(recorded, pin.before), pin.before)):
        return recorded
    return everything if pin.cpus == pin.before else pin.cpus


def targets(
    pins: List[Pin], recorded: Mapping[str, CpuSet], certain: Mapping[str, CpuSet], everything: CpuSet
) -> Dict[str, Tuple[CpuSet, CpuSet]]:
    """For every pinned thread its requested affinity, and the one that it is to have.

    What is `certain` is not compared with what the thread has; `everything` are the CPUs of the host.
    """
    result = {}
    for pin in pins:
        requested = certain.get(pin.name) or requested_affinity(pin, recorded.get(pin.name), everything)
        result[pin.name] = (requested, fit(requested, pin.after))
    return result


def effective_cpus(
    configured: Dict[str, CpuSet], partitions: Dict[str, CpuSet], tree: Tree, online: CpuSet
) -> Dict[str, CpuSet]:
    """What the kernel makes of configured lists: the effective CPUs of every cgroup.

    `configured` holds the non-empty lists, `partitions` those of them that are valid partition roots, `tree` every
    cgroup with its children, parents first. A partition takes its CPUs from its parent; a member has what its list
    and its parent share, or all of its parent's if they share nothing.
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
