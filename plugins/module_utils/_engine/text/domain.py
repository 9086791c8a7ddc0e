# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""A virtual machine as its configuration describes it: which CPUs its threads are pinned to, and how to change that."""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

from .cpus import CpuSet, format_bits, to_bits

PIN_VCPUS = "<cputune><vcpupin vcpu='0' cpuset='8'/>...</cputune>"
PIN_EMULATOR = "<cputune><emulatorpin cpuset='7'/></cputune>"


class Words(NamedTuple):
    """What people call things where a virtual machine is configured; `{name}` is its name."""

    title: str
    vcpus: str  # what pins its vCPUs
    emulator: str  # what pins its other threads
    edit: str  # the command that changes both
    move: str  # how it gets a cgroup of its own


LIBVIRT = Words(
    "the domain {name!r}",
    PIN_VCPUS,
    PIN_EMULATOR,
    "virsh edit {name}",
    "give the domain a cgroup of its own, <resource><partition>/vfio</partition></resource>",
)


class Thread(NamedTuple):
    """A thread of a domain; the emulator's count as one."""

    name: str  # vCPU 0, emulator, I/O thread 1
    bits: int  # its CPUs, 0 if it is not pinned; a bit set, since a domain may have many
    pin: str  # the element that pins it
    is_vcpu: bool = False
    is_real_time: bool = False


class Domain(NamedTuple):
    """A domain's name, the CPUs of its threads (none if they are not pinned), and its cgroup above the scope."""

    name: str
    vcpus: CpuSet
    emulator: CpuSet  # with the I/O threads
    cgroup: str = "/machine.slice"
    is_placed: bool = False  # by libvirt itself, if the XML does not pin it (placement='auto')
    threads: Tuple[Thread, ...] = ()
    words: Words = LIBVIRT

    @property
    def title(self) -> str:
        """What to call it in a sentence."""
        return self.words.title.format(name=self.name)

    @property
    def edit(self) -> str:
        """The command that changes its pins."""
        return self.words.edit.format(name=self.name)

    def without(self, cpus: CpuSet) -> Domain:
        """The same on a host without these CPUs."""
        kept = ~to_bits(cpus)
        threads = tuple(thread._replace(bits=thread.bits & kept) for thread in self.threads)
        return self._replace(vcpus=self.vcpus - cpus, emulator=self.emulator - cpus, threads=threads)

    def why_balanced(self) -> str:
        """Why its threads need the kernel to spread them over CPUs, which it does not in an isolated partition.

        Empty if every thread has one CPU, and no vCPU shares its own.
        """
        seen: Dict[int, Thread] = {}
        for thread in self.threads:
            if not thread.bits:
                return f"its {thread.name} is not pinned (add {thread.pin})"
            if thread.bits & (thread.bits - 1):
                return f"its {thread.name} is pinned to several CPUs, {format_bits(thread.bits)} ({thread.pin})"
            other = seen.setdefault(thread.bits, thread)
            if other is not thread and (other.is_vcpu or thread.is_vcpu):
                return f"its {other.name} and its {thread.name} share CPU {format_bits(thread.bits)} ({thread.pin})"
        return ""

    def why_starving(self, others: CpuSet) -> str:
        """Which of its threads has only CPUs that its real-time vCPUs do not give up, so that QEMU hangs.

        Threads that are not pinned have all CPUs of its vCPUs, and these `others`. Empty if there is none.
        """
        every = to_bits(self.vcpus | others)
        busy = 0
        for thread in self.threads:
            busy |= (thread.bits or every) if thread.is_real_time else 0
        for thread in self.threads:
            if busy and not thread.is_vcpu and not (thread.bits or every) & ~busy:
                return (
                    f"its {thread.name} shares CPUs with real-time vCPUs, which do not give them up; pin it to others"
                    f" with {thread.pin}"
                )
        return ""
