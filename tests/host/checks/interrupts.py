# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interrupts, with irqbalance and without."""

from __future__ import annotations

import glob
import os
import re
import subprocess
import time

from .ground import HOST, VM, at_end, cpus, engine, isolate, managed, read, revert, sh, snapshot, step, unchanged, write


def _movable() -> str:
    """The affinity file of an interrupt of the network card: an ordinary one."""
    lines = read("/proc/interrupts").splitlines()
    number = next(re.match(r"\s*(\d+):", line).group(1) for line in lines if line.endswith("-input.0"))
    return f"/proc/irq/{number}/smp_affinity_list"


def check_moved_within_the_host_is_no_drift() -> None:
    """Moved by irqbalance from one host CPU to another: no drift, not rewritten; on a VM's CPU: drift, mended."""
    path = _movable()
    address = f"irq.affinity:{path.split('/')[3]}"
    before = read(path)
    isolate()
    at_end(lambda: write(path, before))
    write(path, "1")
    _journal, drift = engine().inspect()
    assert not drift.changes, drift.changes
    assert not isolate().changed
    assert read(path) == "1"
    write(path, "5")
    _journal, drift = engine().inspect()
    assert [tuple(change) for change in drift.changes] == [(address, "5", "0-3")], drift.changes
    assert [change.address for change in isolate().changes] == [address]
    assert cpus(read(path)) <= HOST


def check_irqbalance_keeps_off() -> None:
    """With irqbalance running: it is told to keep off the CPUs, does so, and is told the former ban on revert."""
    sh("systemctl start irqbalance")
    at_end(lambda: sh("systemctl stop irqbalance"))
    banned = None
    for _attempt in range(100):
        banned = next(iter(glob.glob("/run/irqbalance/*.sock")), None)
        if banned:
            break
        time.sleep(0.2)
    assert banned, "irqbalance has no socket"
    masks = {path: read(path) for path in glob.glob("/proc/irq/*/smp_affinity_list") if not managed(path)}
    at_end(lambda: [write(path, mask) for path, mask in masks.items()])
    before = _banned()
    outcome = isolate()
    assert any(address.startswith("irqbalance.banned:") for address in outcome.prior), outcome.prior
    assert not isolate().changed, "a ban that irqbalance received, but does not show yet, is not drift"
    _wait_for_ban(VM)
    for path in masks:
        assert not cpus(read(path)) & VM, f"{path}: {read(path)}"
    revert()
    _wait_for_ban(before)


def check_irqbalance_without_a_socket() -> None:
    """An irqbalance that has no directory for its socket is known by its process, and the run says so."""
    masks = {path: read(path) for path in glob.glob("/proc/irq/*/smp_affinity_list") if not managed(path)}
    at_end(lambda: [write(path, mask) for path, mask in masks.items()])
    assert not os.path.exists("/run/irqbalance")
    child = subprocess.Popen(["/usr/sbin/irqbalance", "--foreground"], stdout=subprocess.DEVNULL)
    at_end(lambda: child.kill() or child.wait())
    deadline = time.monotonic() + 60
    while read(f"/proc/{child.pid}/comm") != "irqbalance" or "@@@@" not in read("/proc/net/unix"):
        assert time.monotonic() < deadline, read("/proc/net/unix")
        time.sleep(0.2)
    outcome = isolate()
    expected = f"irqbalance (process {child.pid}) has no socket in /run/irqbalance: it may move interrupts back"
    assert outcome.skipped.get("irqbalance.banned") == expected, outcome.skipped
    child.kill()
    child.wait()
    assert not [address for address in isolate().skipped if address.startswith("irqbalance")]


def _banned() -> set:
    from module_utils._engine.kernel.host import Host
    from module_utils._engine.kernel.irqbalance import Irqbalance
    from module_utils._engine.text.cpus import parse_mask

    irqbalance = Irqbalance(Host())
    answer = Host().converse(irqbalance.where(irqbalance.running()), "setup")
    return set(parse_mask(re.search(r"BANNED ([0-9a-f,]+)", answer).group(1)))


def _wait_for_ban(expected: set) -> None:
    """irqbalance shows a ban at its next scan, within 10 s."""
    deadline = time.monotonic() + 60
    while _banned() != expected:
        assert time.monotonic() < deadline, f"irqbalance bans {_banned()}, expected {expected}"
        time.sleep(1)


def check_born_while_narrowed() -> None:
    """An interrupt that was requested while the default was narrow gets the default that is given back."""
    device = next(os.path.basename(path) for path in glob.glob("/sys/bus/virtio/drivers/virtio_rng/virtio*"))
    driver = "/sys/bus/virtio/drivers/virtio_rng"
    default = read("/proc/irq/default_smp_affinity")
    masks = {path: read(path) for path in glob.glob("/proc/irq/*/smp_affinity_list") if not managed(path)}
    at_end(lambda: [write(path, mask) for path, mask in masks.items()])
    write(f"{driver}/unbind", device)
    numbers = set(os.listdir("/proc/irq"))
    isolate()
    write(f"{driver}/bind", device)
    new = set(os.listdir("/proc/irq")) - numbers
    assert new, "the device requested no interrupt"
    for number in new:
        assert cpus(read(f"/proc/irq/{number}/smp_affinity_list")) == HOST
    revert()
    assert read("/proc/irq/default_smp_affinity") == default
    for number in new:
        assert cpus(read(f"/proc/irq/{number}/smp_affinity_list")) == HOST | VM


def check_chosen_interrupts() -> None:
    """By number, by name pattern and by PCI address only those are moved; add and set say which way."""
    path = _movable()
    number = int(path.split("/")[3])
    before = snapshot()
    outcome = engine().once(step("irq_affinity", operation="set", cpus="4-7", names=["virtio*-input.0"]))
    assert [change.address for change in outcome.changes] == [f"irq.affinity:{number}"]
    assert cpus(read(path)) == VM
    outcome = engine().once(step("irq_affinity", cpus="0", operation="add", irqs=[number]))
    assert cpus(read(path)) == VM | {0}
    engine().restore_prior(outcome.prior)
    assert cpus(read(path)) == VM
    pci = os.path.realpath(glob.glob("/sys/class/net/e*/device/..")[0]).split("/")[-1]
    engine().once(step("irq_affinity", cpus="4-7", pci=[pci]))
    assert cpus(read(path)) == HOST
    moved = [key for key, value in snapshot().items() if key.startswith("irq ") and before[key] != value]
    for key in moved:
        write(key[4:], before[key])
    unchanged(before)
