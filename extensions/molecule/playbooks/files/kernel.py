# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Says what the kernel says, by code that shares nothing with the collection.

kernel.py settings        every setting that isolation may touch, one a line
kernel.py intruders CPUS  who but the VM may run on these CPUs
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
IRQS = Path("/proc/irq")
POLICIES = Path("/sys/devices/system/cpu/cpufreq")
# Kernel threads bound to a node and the two parents of everything else.
TASKS = ("systemd", "kthreadd", "kswapd", "kcompactd", "irq/")


def read(path: Path) -> str:
    """What the file says: nothing, if it cannot be read or has just gone."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def cgroups() -> Iterator[Path]:
    """All but the scopes, which come and go with ssh sessions (init.scope stays)."""
    for path in (CGROUPS, *CGROUPS.rglob("*")):
        if path.is_dir() and (path.suffix != ".scope" or path.name == "init.scope"):
            yield path


def tasks() -> Iterator[tuple[str, str]]:
    """The name and the CPU list of the tasks whose affinity must come back."""
    for status in Path("/proc").glob("[0-9]*/status"):
        fields = dict(line.split(":\t", 1) for line in read(status).splitlines() if ":\t" in line)
        if fields.get("Name", "").startswith(TASKS):
            yield f"{status.parent.name} {fields['Name']}", fields["Cpus_allowed_list"]


def settings() -> Iterator[str]:
    """Each setting with its value."""
    files = [path / "cgroup.subtree_control" for path in cgroups()]
    files += [file for path in cgroups() for file in path.glob("cpuset.*")]
    files += [IRQS / "default_smp_affinity", *IRQS.glob("*/smp_affinity")]
    files += [*POLICIES.glob("*/scaling_governor"), *POLICIES.glob("*/energy_performance_preference")]
    files += [Path("/sys/devices/virtual/workqueue/cpumask")]
    for control in ("/run/systemd/system.control", "/etc/systemd/system.control"):
        files += [path for path in Path(control).rglob("*") if path.is_file()]
    for file in sorted(files):
        yield f"{file}: {read(file)!r}"
    for name, cpus in sorted(tasks()):
        yield f"task {name}: {cpus}"


def cpu_set(text: str) -> set[int]:
    """The kernel's list format."""
    ends = [term.split("-") for term in text.split(",") if term]
    return {cpu for end in ends for cpu in range(int(end[0]), int(end[-1]) + 1)}


def movable(irq: Path) -> bool:
    """Whether the kernel takes back the mask that the IRQ has; it refuses that for managed ones."""
    affinity = irq / "smp_affinity"
    try:
        affinity.write_text(affinity.read_text())
    except OSError:
        return False
    return True


def intruders(cpus: set[int]) -> Iterator[str]:
    """Those who may run on the CPUs and should not, and policies of the CPUs that should run `performance`."""
    for path in cgroups():
        is_host = path != CGROUPS and "machine.slice" not in path.parts
        if is_host and cpus & cpu_set(read(path / "cpuset.cpus.effective")):
            yield f"cgroup {path}"
    for name, allowed in tasks():
        if name in ("1 systemd", "2 kthreadd") and cpus & cpu_set(allowed):
            yield f"task {name}"
    for irq in IRQS.glob("[0-9]*"):
        if cpus & cpu_set(read(irq / "smp_affinity_list")) and movable(irq):
            yield f"IRQ {irq.name}"
    for policy in POLICIES.glob("policy*"):
        if cpus & {int(cpu) for cpu in read(policy / "affected_cpus").split()}:
            governor = read(policy / "scaling_governor")
            if governor != "performance":
                yield f"{policy.name} {governor}"


if __name__ == "__main__":
    print(*(settings() if sys.argv[1] == "settings" else intruders(cpu_set(sys.argv[2]))), sep="\n")
