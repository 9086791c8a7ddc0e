# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Huge pages on the real kernel: reserved, added up, refused, and the number given back."""

from __future__ import annotations

from .ground import engine, read, refused, revert, snapshot, step, unchanged

POOL = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"


def check_claims_add_up_and_revert_restores() -> None:
    """Two claims come and go crosswise; the kernel holds what they reserve together."""
    before = snapshot()
    for name, pages in (("first", 3), ("second", 2)):
        steps = [step("drop_caches"), step("compact_memory"), step("hugepages", pages=pages, size="2M", nodes=["1"])]
        assert engine().apply(name, steps).changed
        assert not engine().apply(name, steps).changed
    assert read(POOL) == "5"
    revert("first")
    assert read(POOL) == "2"
    revert("second")
    unchanged(before)


def check_more_than_there_is_rolls_back() -> None:
    """The sentence says how many the kernel could give; governors and all else are as they were."""
    before = snapshot()
    steps = [
        step("cpu_governor", governor="performance", cpus="4-7", if_unsupported="skip"),
        step("hugepages", pages=1 << 20, nodes=["1"]),
    ]
    sentence = refused(lambda: engine().apply("vm", steps))
    assert "step 2 (hugepages)" in sentence and "the kernel could allocate only " in sentence, sentence
    assert f" of {1 << 20} huge pages" in sentence and "Everything is back as it was" in sentence, sentence
    unchanged(before)
