# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Thread affinities under changing cpusets: what the kernel destroys, and what each thread gets instead.

Changing a cpuset resets the affinity of the threads in it (user threads before Linux 6.2, kernel threads always).
So the affinity that each thread requested is recorded before, kept as far as it fits, and restored.
"""

from __future__ import annotations

from typing import Collection, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..text.cpus import CpuSet

Tree = List[Tuple[str, List[str]]]


class Pin(NamedTuple):
    """A thread whose affinity is not just all of its cgroup's CPUs."""

    name: str  # as an address names it
    cpus: CpuSet  # also those that are offline
    before: CpuSet  # the effective CPUs of its cgroup now
    after: CpuSet  # ... and then; both without those that we keep it off, if its cgroup has no cpuset to do so
    spare: CpuSet  # CPUs that are offline, and that it may have
    unbound: Collection[CpuSet]  # what a thread has there that requested nothing, or that the kernel has reset
    is_kernel_thread: bool


def fit(requested: CpuSet, effective: CpuSet) -> CpuSet:
    """What a thread gets of its requested affinity: the part that is effective, or all that is if nothing of it is."""
    return (requested & effective) or effective


def requested_affinity(
    pin: Pin, recorded: Optional[CpuSet], given: Sequence[CpuSet], online: CpuSet, everything: CpuSet
) -> CpuSet:
    """What a thread requested: as recorded, unless its owner changed the affinity since.

    It is unchanged if the thread has what we gave it last, or would give it, or what the kernel resets a thread to;
    CPUs that are offline come and go by themselves. One that is unbound, and of which nothing was recorded, requested
    nothing: it is to have `everything`, the CPUs of the host.
    """
    if recorded is not None:
        # A run may have been killed before it kept the thread off more than its cpuset does. If none of its CPUs is
        # left, the kernel lets it have all, also those of partitions.
        fitted = (fit(recorded, cpus) for cpus in (pin.before, *pin.unbound))
        ours = (*fitted, *given, *pin.unbound, everything)
        if pin.cpus & online in [cpus & online for cpus in ours]:
            return recorded
    return everything if pin.cpus in pin.unbound else pin.cpus


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
