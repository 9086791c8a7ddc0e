# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Threads by id and start time."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.stages import Stage
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.task import (
    PF_NO_SETAFFINITY,
    Affinity,
    TaskId,
    identify,
    read_task,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.topology import SysfsTopology
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from hypothesis import given
from hypothesis import strategies as st


def stat(name: str, flags: int, start: int) -> str:
    """A /proc/PID/stat as the kernel writes it."""
    fields = ["S", "1", "0", "0", "0", "0", str(flags), *["0"] * 12, str(start), *["0"] * 30]
    return f"12 ({name}) {' '.join(fields)}"


def test_a_thread_with_the_number_of_another_is_not_that_one(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/proc/12/stat": stat("sleep", 0, 777)})
    host.affinities[12] = frozenset({1, 2})
    affinity = Affinity(host, SysfsTopology(host))
    assert affinity.read("12:777") == "1-2"
    assert affinity.read("12:776") is None
    assert affinity.read("13:777") is None


@pytest.mark.parametrize(
    ("name", "old", "new", "stages"),
    [
        ("2:1", "0-7", "0-3", [Stage.BIND_KTHREADD, Stage.BIND_THREAD]),
        ("2:1", "0-3", "0-7", [Stage.BIND_KTHREADD, Stage.BIND_THREAD]),
        ("2:1", "0-3", "4-7", [Stage.BIND_THREAD]),  # nothing of it may be effective yet
        ("12:777", "0-7", "0-3", [Stage.BIND_THREAD]),
    ],
)
def test_kthreadd_is_bound_before_anything_creates_threads(
    tmp_path: Path, name: str, old: str, new: str, stages: List[Stage]
) -> None:
    host = FakeHost(str(tmp_path), {})
    written = Affinity(host, SysfsTopology(host)).writes(name, old, new)
    assert [(write.stage, write.value) for write in written] == [(stage, new) for stage in stages]


def test_a_name_may_hold_anything(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/proc/12/stat": stat("a) S (b", 0x00200000, 5)})
    task = read_task(host, 12)
    assert task and task.name == "12:5" and task.is_kernel_thread and not task.is_bound
    assert identify(host, 12) == (12, 5)


def test_a_thread_that_the_kernel_binds_is_known(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {"/proc/12/stat": stat("kworker/0:1", PF_NO_SETAFFINITY, 5)})
    task = read_task(host, 12)
    assert task and task.is_bound and not task.is_kernel_thread
    assert read_task(host, 13) is None


@pytest.mark.parametrize("name", ["0:1", "2147483648:1", "99999999999:1", "1", "1:", "²:1", "-1:1", "1:2:3", "1:1e3"])
def test_what_is_no_task_is_no_address(name: str) -> None:
    """A number that no system call takes is an OverflowError, and 0 is the caller itself."""
    assert TaskId.parse(name) is None and TaskId.parse("1:2") == TaskId(1, 2)


@pytest.mark.parametrize("text", ["²:1", "1:٣", "1:", ":1", "1", "1:2:3", "-1:2", "1_0:2", "1:2\n", ""])
def test_a_task_is_named_by_two_numbers_in_plain_digits(text: str) -> None:
    assert TaskId.parse(text) is None


@given(st.integers(1, 2**31 - 1), st.integers(0, 10**18 - 1))
def test_a_task_s_name_leads_back_to_it(number: int, start: int) -> None:
    assert TaskId.parse(str(TaskId(number, start))) == TaskId(number, start)
