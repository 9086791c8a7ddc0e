# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses out of a journal or an option: which of them name a setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Address
from ansible_collections.vfio.isolation.plugins.module_utils._engine.resources import Resources
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.kernel.mounted import V2

NUMBERED = (
    "irq.affinity:{}",
    "irqbalance.banned:{}:5",
    "irqbalance.banned:5:{}",
    "task.cgroup:{}:5",
    "task.cgroup:5:{}",
    "task.affinity:{}:5",
    "task.affinity:5:{}",
    "cpufreq.governor:policy{}",
    "cpufreq.preference:policy{}",
)


def resources(tmp_path: Path) -> Resources:
    """Those of a host with cgroup v2."""
    return Resources(
        FakeHost(str(tmp_path), {"/proc/self/mountinfo": V2, "/sys/fs/cgroup/cgroup.controllers": "cpuset"})
    )


@pytest.mark.parametrize("address", NUMBERED)
def test_an_address_has_a_number_in_plain_digits(tmp_path: Path, address: str) -> None:
    found = resources(tmp_path)
    assert found.kind(Address.parse(address.format(12)))
    for number in ("²", "٣", "1²", "1٣", "", "-1", "+1", " 1", "1 ", "1_0", "1\n", "0x1", "9" * 19):
        with pytest.raises(IsolationError, match="is not the address of a setting that this collection may change"):
            found.kind(Address.parse(address.format(number)))


@pytest.mark.parametrize("text", ["", ":", "irq", "irq.affinity", "irq.affinity:", "nothing:1", "IRQ.AFFINITY:1"])
def test_what_names_no_setting_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(IsolationError, match="is not the address of a setting"):
        resources(tmp_path).kind(Address.parse(text))


def test_a_saved_setting_is_an_address_and_a_value_that_it_may_hold(tmp_path: Path) -> None:
    found = resources(tmp_path)
    assert found.parse("irq.affinity:24", "0-3") == (Address("irq.affinity", "24"), "0-3")
    for value in ("x", "²", "0-٣", 3, None, ["0"]):
        with pytest.raises(IsolationError, match="cannot hold"):
            found.parse("irq.affinity:24", value)


def test_what_is_gone_reads_none(tmp_path: Path) -> None:
    found = resources(tmp_path)
    for address in ("irq.affinity:24", "cpufreq.governor:policy0", "task.affinity:12:34", "cgroup.cpus:/no"):
        assert found.read(Address.parse(address)) is None
