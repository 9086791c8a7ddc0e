# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interrupts, on real files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import Skipped
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.irq import DefaultAffinity, Irqs
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

FILES: Dict[str, str] = {
    "/proc/irq/default_smp_affinity": "1,000000ff\n",
    "/proc/irq/9/smp_affinity_list": "0-7\n",
    "/proc/irq/24/smp_affinity_list": "3,5\n",
    "/sys/kernel/irq/24/actions": "nvme0q1,xhci\n",
    "/sys/bus/pci/devices/0000:01:00.0/msi_irqs/24": "msix\n",
    "/sys/bus/pci/devices/0000:01:00.0/irq": "9\n",
    "/sys/bus/pci/devices/0000:02:00.0/irq": "9\n",
    "/sys/bus/pci/devices/0000:03:00.0/irq": "0\n",
}


def test_interrupts_are_listed_by_number(tmp_path: Path) -> None:
    irqs = Irqs(FakeHost(str(tmp_path), FILES))
    assert irqs.numbers() == [9, 24]
    assert irqs.read("24") == "3,5" and irqs.read("25") is None
    assert irqs.actions(24) == "nvme0q1,xhci" and irqs.actions(9) == ""


def test_the_interrupts_of_a_pci_device_are_its_vectors_or_its_line(tmp_path: Path) -> None:
    irqs = Irqs(FakeHost(str(tmp_path), FILES))
    assert irqs.of_pci("0000:01:00.0") == [24]
    assert irqs.of_pci("0000:02:00.0") == [9]
    assert irqs.of_pci("0000:03:00.0") == []
    assert irqs.of_pci("0000:04:00.0") is None


def test_a_pci_address_is_as_the_kernel_writes_it_or_in_capitals(tmp_path: Path) -> None:
    vmd = {"/sys/bus/pci/devices/10000:e1:00.0/irq": "24\n"}
    irqs = Irqs(FakeHost(str(tmp_path), {**FILES, **vmd}))
    assert irqs.of_pci("10000:E1:00.0") == irqs.of_pci("10000:e1:00.0") == [24]


def test_the_default_is_a_mask_in_the_file_and_a_list_here(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), FILES)
    default = DefaultAffinity(host)
    assert default.read("") == "0-7,32"
    default.write("", "0-3,33")
    assert host.read("/proc/irq/default_smp_affinity") == "2,0000000f"


def test_a_refused_interrupt_is_skipped_with_the_kernel_s_answer(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match=r"/proc/irq/7/smp_affinity_list refused '0-3'.*ENOENT"):
        Irqs(FakeHost(str(tmp_path), FILES)).write("7", "0-3")


def test_a_managed_interrupt_is_known_by_its_mode_or_by_what_it_answers(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), FILES)
    os.chmod(f"{tmp_path}/proc/irq/9/smp_affinity_list", 0o444)
    os.unlink(f"{tmp_path}/proc/irq/24/smp_affinity_list")
    os.symlink("/proc/self/mem", f"{tmp_path}/proc/irq/24/smp_affinity_list")  # nothing is mapped at 0: EIO
    assert Irqs(host).immovable(9)
    assert Irqs(host).immovable(24)
    os.unlink(f"{tmp_path}/proc/irq/24/smp_affinity_list")
    os.symlink("/dev/null", f"{tmp_path}/proc/irq/24/smp_affinity_list")
    assert not Irqs(host).immovable(24)


def test_an_interrupt_that_was_freed_meanwhile_is_not_taken_for_a_managed_one(tmp_path: Path) -> None:
    assert not Irqs(FakeHost(str(tmp_path), FILES)).immovable(7)


@pytest.mark.parametrize("name", ["²", "٣", "2²"])
def test_a_name_that_only_looks_like_a_number_is_no_interrupt(tmp_path: Path, name: str) -> None:
    more = {f"/proc/irq/{name}/smp_affinity_list": "0", f"/sys/bus/pci/devices/0000:01:00.0/msi_irqs/{name}": ""}
    irqs = Irqs(FakeHost(str(tmp_path), {**FILES, **more}))
    assert irqs.numbers() == [9, 24] and irqs.of_pci("0000:01:00.0") == [24]
    assert not irqs.valid_name(name)
