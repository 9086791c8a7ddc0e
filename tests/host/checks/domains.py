# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Domains of a real libvirt, and the hook as a host has it."""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import Any

from module_utils._engine.kernel.host import Host
from module_utils._engine.paths import HOOK, RUNNER
from module_utils._host_files import hook_files
from module_utils._install import Installation

from .ground import at_end, read, sh

PYTHON = "/usr/bin/python3"
IMAGE = "/var/lib/libvirt/images/vfio-isolation-check.img"

# A guest of one sector that ends when its power button is pressed, as `virsh shutdown` does. Its ports are those that
# SeaBIOS gives the power management of a `pc` machine.
GUEST = bytes.fromhex(
    "fa"  # cli
    "ba0206 b80001 ef"  # PM1a_EN (0x602): the power button is to be seen
    "fb f4"  # sti; hlt: wait for the next tick of the clock
    "ba0006 ed a90001"  # PM1a_STS (0x600): has it been pressed?
    "74f5"  # no: wait on
    "ba0406 b80020 ef"  # PM1a_CNT (0x604): off
    "f4 ebfd"  # hlt, for ever
)

# A guest whose vCPUs are all busy: it wakes those that wait, as the Intel SDM says (INIT, then a start-up interrupt).
BUSY_IMAGE = "/var/lib/libvirt/images/vfio-isolation-busy.img"
BUSY_GUEST = bytes.fromhex(
    "fa 31c0 8ed8"  # cli; ds = 0
    "0f0116707c 0f20c0 0c01 0f22c0 66ea1a7c00000800"  # to 32 bits, with the descriptors below
    "b810000000 8ed8"
    "66c70500800000ebfe"  # at 0x8000, for the others: jump to itself
    "c7050003e0fe00450c00 b900001000 e2fe"  # INIT to all others, and wait
    "c7050003e0fe08460c00 b900001000 e2fe"  # start at 0x8000
    "c7050003e0fe08460c00 ebfe"  # once more, then jump to itself
    "0000000000000000 ffff0000009acf00 ffff00000092cf00"  # descriptors: none, code, data
    "1700587c0000"  # their size and address
)
GUESTS = {IMAGE: GUEST, BUSY_IMAGE: BUSY_GUEST}


def install(*named: str, default: dict[str, Any] | None = None, **domains: dict[str, Any]) -> None:
    """Install the hook for these domains; it goes when the check ends."""
    configured = {**{name: {} for name in named}, **domains}
    at_end(lambda: Installation(Host(), check=False).unhook())
    Installation(Host(), check=False).hook(hook_files(configured, default, PYTHON))


def xml(
    name: str,
    pins: str,
    emulator: str = "",
    inside: str = "",
    vcpu: str = "<vcpu>{}</vcpu>",
    tuned: str = "",
    image: str = IMAGE,
) -> str:
    """A domain with a vCPU on each of these CPUs."""
    numbers = pins.split(",") if pins else [""]
    tune = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>" for vcpu, cpu in enumerate(numbers) if cpu)
    tune += (f"<emulatorpin cpuset='{emulator}'/>" if emulator else "") + tuned
    return (
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
        f"<name>{name}</name><memory unit='MiB'>32</memory>{vcpu.format(len(numbers))}<cputune>{tune}</cputune>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>"
        f"<disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='{image}'/>"
        "<target dev='fda'/><readonly/></disk>"
        f"<controller type='usb' model='none'/><memballoon model='none'/></devices>{inside}</domain>"
    )


def define(name: str, pins: str, emulator: str = "", inside: str = "", **more: str) -> None:
    """Define a domain; it is ended and undefined when the check ends."""
    for path, guest in GUESTS.items():
        if not os.path.exists(path):
            with open(path, "wb") as image:
                image.write(guest.ljust(510, b"\0") + b"\x55\xaa" + bytes(1440 * 1024 - 512))
    at_end(lambda: virsh("undefine", name))
    at_end(lambda: virsh("destroy", name))
    done = virsh("define", "/dev/stdin", given=xml(name, pins, emulator, inside, **more))
    assert done.returncode == 0, done.stdout


def virsh(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run virsh; standard error is in its output."""
    return subprocess.run(
        ["virsh", *arguments], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def start(name: str) -> None:
    """Start a domain, which must succeed."""
    done = virsh("start", name)
    assert done.returncode == 0, done.stdout


def destroy(name: str) -> None:
    """End a domain."""
    done = virsh("destroy", name)
    assert done.returncode == 0, done.stdout


def state(name: str) -> str:
    """A domain's state, with the reason."""
    return virsh("domstate", "--reason", name).stdout.strip()


def ended(name: str, expected: str, seconds: float = 60) -> None:
    """Wait until a domain has ended, and libvirt has done all that comes after."""
    deadline = time.monotonic() + seconds
    while state(name) != expected or hooks_run():
        assert time.monotonic() < deadline, f"{name}: {state(name)}"
        time.sleep(0.2)


def hooks_run() -> bool:
    """Whether a hook of libvirt runs now."""
    return any(
        RUNNER in read(f"/proc/{process}/cmdline") or HOOK in read(f"/proc/{process}/cmdline")
        for process in os.listdir("/proc")
        if process.isdigit()
    )


def process(name: str) -> int:
    """The process of a domain that runs."""
    return int(read(f"/run/libvirt/qemu/{name}.pid"))


def threads(name: str) -> dict[str, set[int]]:
    """Where each thread of a domain's QEMU may run, by its name; those of one name together."""
    found: dict[str, set[int]] = {}
    for thread in os.listdir(f"/proc/{process(name)}/task"):
        comm = read(f"/proc/{thread}/comm")
        found.setdefault(comm, set()).update(os.sched_getaffinity(int(thread)))
    return found


def seconds_of_vcpus(name: str) -> list[float]:
    """The CPU time that each vCPU of a domain has had."""
    found, tasks = {}, f"/proc/{process(name)}/task"
    for thread in os.listdir(tasks):
        match = re.match(r"CPU (\d+)", read(f"{tasks}/{thread}/comm"))
        if match:
            fields = read(f"{tasks}/{thread}/stat").rpartition(")")[2].split()
            found[int(match[1])] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return [found[number] for number in sorted(found)]


def vcpus(name: str) -> list[set[int]]:
    """Where each vCPU of a domain may run."""
    numbered = {int(match[1]): cpus for comm, cpus in threads(name).items() if (match := re.match(r"CPU (\d+)", comm))}
    return [numbered[number] for number in sorted(numbered)]


def logged(since: float) -> str:
    """What the hook has told the journal of the system since a time."""
    return sh(f"journalctl -t vfio-isolation -o cat --no-pager --since=@{since:.0f}")
