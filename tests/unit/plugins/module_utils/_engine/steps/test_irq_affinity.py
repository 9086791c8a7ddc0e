# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interrupts: how they are chosen, and what is done to their affinities."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.steps.single_step import (
    planned,
    refused,
)


def test_irqs_are_chosen_by_number() -> None:
    assert planned("irq_affinity", cpus="4-7", irqs=[1]) == {"irq.affinity:1": "0-3"}
    assert "there is no interrupt 99" in refused("irq_affinity", cpus="4-7", irqs=[99])


def test_irqs_are_added_to_and_set() -> None:
    assert planned("irq_affinity", cpus="0", operation="add", irqs=[2]) == {"irq.affinity:2": "0,4"}
    assert planned("irq_affinity", cpus="6", operation="set", irqs=[2]) == {"irq.affinity:2": "6"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"names": ["nothing*"]}, "no interrupt's handler is named 'nothing*'"),
        ({"pci": ["1:00"]}, "is not a PCI address such as 0000:01:00.0"),
        ({"pci": ["0000:01:00.0"]}, "there is no PCI device 0000:01:00.0"),
        ({"cpus": "online"}, "are all CPUs of this host"),
    ],
)
def test_what_names_no_interrupt_is_refused(given: dict, words: str) -> None:
    assert words in refused("irq_affinity", **{"cpus": "4-7", **given})


def test_a_pattern_that_cannot_be_one_names_no_interrupt() -> None:
    """Up to Python 3.10 it is no pattern at all."""
    said = refused("irq_affinity", cpus="4-5", names=["[z-a]"])
    assert said.startswith("names: ") and "[z-a]" in said
