# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The QEMU command line of the virtual host."""

from __future__ import annotations

import os
import subprocess
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .console import say

if TYPE_CHECKING:
    from .image import Image

QEMU = "qemu-system-x86_64"
PID_FILE = "qemu.pid"
CONSOLE_LOG = "console.log"

# Reading the HPET takes QEMU's one big lock: without it an emulated boot is a quarter shorter. The rest is unused.
_MACHINE = "q35,hpet=off,i8042=off,smbus=off,vmport=off"

# One thread for all CPUs. With one for each, a CPU sometimes runs code that another one is just replacing, when the
# kernel patches itself, and the host is dead (int3 in ___slab_alloc, seen on Linux 6.12). Two emulated hosts at a time
# are as fast on two cores. acpi-cpufreq refuses QEMU's default CPU, which calls itself an AMD K8.
_EMULATED = ["-accel", "tcg,thread=single", "-cpu", "EPYC"]
_VIRTUALISED = ["-accel", "kvm", "-cpu", "host"]

# The kernel's self-test of its ciphers can hang for ever under multi-threaded TCG. What TCG has translated, it finds
# again only at the same virtual address: with random ones, it translates all libraries of each process anew, and the
# checks take 1.6 times as long.
_KERNEL_COMMAND_LINE = (
    "root=/dev/vda rw rootfstype=ext4 fsck.mode=skip net.ifnames=0 console=ttyS0 8250.nr_uarts=1 "
    "cryptomgr.notests mitigations=off norandmaps"
)

_PROBE_SECONDS = 15


def qemu_command(image: Image, directory: Path, *, ssh_port: int, cmdline: str) -> list[str]:
    """Give the command that boots `image` in the background, with its ssh server on a loopback port."""
    return [
        QEMU,
        *("-name", f"vfio-host-{directory.name}", "-pidfile", str(directory / PID_FILE), "-daemonize"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{directory / CONSOLE_LOG}"),
        *("-machine", _MACHINE, *(_VIRTUALISED if kvm_boots(image.kernel) else _EMULATED)),
        *("-smp", "8,sockets=2", "-m", "2G"),
        *("-object", "memory-backend-ram,id=memory0,size=1G", "-numa", "node,nodeid=0,memdev=memory0,cpus=0-3"),
        *("-object", "memory-backend-ram,id=memory1,size=1G", "-numa", "node,nodeid=1,memdev=memory1,cpus=4-7"),
        *("-acpitable", f"file={_escaped(image.acpi_table)}", "-device", "pc-testdev"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", f"{_KERNEL_COMMAND_LINE} {cmdline}".strip()),
        *("-drive", f"if=none,id=disk,format=raw,snapshot=on,file={_escaped(image.disk)}"),
        *("-device", "virtio-blk-pci,drive=disk,num-queues=8"),
        *("-netdev", f"user,id=network,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"),
        *("-device", "virtio-net-pci,netdev=network,romfile=", "-device", "virtio-rng-pci"),
    ]


@cache
def kvm_boots(kernel: Path) -> bool:
    """Try whether a guest really boots with KVM: /dev/kvm may be there and yet not do it.

    As it takes a while to see that it does not, the answer is kept beside the kernel until this machine's next boot.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    answer = kernel.with_name(f"kvm-{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()}")
    if not answer.exists():
        found = answer.with_name(f"{answer.name}.{os.getpid()}")
        found.write_text("yes" if _boots(kernel) else "no", encoding="ascii")
        found.rename(answer)
    boots = answer.read_text(encoding="ascii") == "yes"
    say("KVM boots a guest here" if boots else "KVM does not boot a guest here, so everything is emulated (TCG)")
    return boots


def _boots(kernel: Path) -> bool:
    command = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", _MACHINE, *_VIRTUALISED]
    command += ["-smp", "2", "-m", "256M", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel)]
    command += ["-append", "console=ttyS0 panic=-1 mitigations=off"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet) as probe:
        limit = threading.Timer(_PROBE_SECONDS, probe.kill)
        limit.start()
        try:
            console = probe.stdout.read() if probe.stdout else b""
        finally:
            limit.cancel()
            probe.kill()
    return b"Unable to mount root fs" in console  # as far as a kernel gets without a disk


def _escaped(path: Path) -> str:
    """Write a path as part of a QEMU option, where a comma would begin the next part."""
    return str(path).replace(",", ",,")
