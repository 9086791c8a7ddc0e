# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Governors and energy preferences: which policies they are set for, and what is refused."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cpufreq import (
    NAMED,
    Cpufreq,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Baseline
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.single_step import (
    planned,
    refused,
)


def test_governor_is_set_for_the_policies_of_the_cpus() -> None:
    assert planned("cpu_governor", governor="performance", cpus="4,7") == {
        "cpufreq.governor:policy2": "performance",
        "cpufreq.governor:policy3": "performance",
    }


def test_governor_holds_the_energy_preference_that_it_locks() -> None:
    host = Baseline(preferences=("power",) * 4)
    changes = planned("cpu_governor", host, governor="performance", cpus="0")
    assert changes == {"cpufreq.governor:policy0": "performance", "cpufreq.preference:policy0": "performance"}


def test_an_energy_preference_that_is_not_offered_is_refused() -> None:
    host = Baseline(preferences=("power",) * 4)
    sentence = refused("cpu_governor", host, governor="powersave", energy_preference="warp")
    assert "policy0 has no 'warp'" in sentence and "power" in sentence


@pytest.mark.parametrize("number", ["²", "٣", "1²", "-1", "1_0", " 1", "+1", ""])
def test_an_energy_preference_is_a_number_only_in_plain_digits(number: str) -> None:
    host = Baseline(preferences=("power",) * 4)
    sentence = refused("cpu_governor", host, governor="powersave", energy_preference=number)
    assert f"policy0 has no {number!r}" in sentence
    assert planned("cpu_governor", host, governor="powersave", cpus="0", energy_preference="128") == {
        "cpufreq.governor:policy0": "powersave",
        "cpufreq.preference:policy0": "128",
    }


@pytest.mark.parametrize("number", ["0", "128", "192", "255"])
def test_a_number_that_the_driver_has_a_name_for_is_refused_with_that_name(number: str) -> None:
    with booted(Baseline(preferences=("balance_power", "power", "default", "33"))) as kernel:
        before = kernel.snapshot()
        one = step("cpu_governor", governor="powersave", cpus="0-3", energy_preference=number)
        if NAMED[number] == "balance_power":
            one = step("cpu_governor", governor="powersave", cpus="2-3", energy_preference=number)
        with pytest.raises(IsolationError, match=f"the driver calls '{number}' '{NAMED[number]}'; use that name"):
            engine(kernel).apply("x", [one])
        assert kernel.snapshot() == before


@pytest.mark.parametrize("number", ["1", "64", "254"])
def test_a_number_without_a_name_is_set_satisfied_and_restored(number: str) -> None:
    with booted(Baseline(preferences=("balance_power", "power", "default", "33"))) as kernel:
        before = kernel.snapshot()
        one = step("cpu_governor", governor="powersave", energy_preference=number)
        assert engine(kernel).apply("x", [one]).changed
        assert not engine(kernel).apply("x", [one]).changed and engine(kernel).inspect()[1].changes == []
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_a_name_that_the_driver_has_another_name_for_is_refused_with_that_one() -> None:
    """What `default` stands for."""
    with booted(Baseline(preferences=("balance_power",) * 4)) as kernel:
        before = kernel.snapshot()
        kernel.part(Cpufreq).unnamed.clear()
        with pytest.raises(IsolationError, match="the driver calls 'default' 'power'; use that name"):
            engine(kernel).apply("x", [step("cpu_governor", governor="powersave", energy_preference="default")])
        assert kernel.snapshot() == before
