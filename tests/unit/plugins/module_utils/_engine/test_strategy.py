# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which strategy a host gets."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.strategy import choose


@pytest.mark.parametrize(
    ("asked", "version", "release", "strategy"),
    [
        ("auto", 2, "6.1.0-40-amd64", "partition"),
        ("auto", 2, "6.0.9", "slices"),
        ("auto", 2, "5.15.0", "slices"),
        ("auto", 2, "10.0.1-rc1", "partition"),
        ("slices", 2, "6.12.1", "slices"),
    ],
)
def test_the_strategy_is_the_best_that_the_host_has(asked: str, version: int, release: str, strategy: str) -> None:
    assert choose(asked, version, release)[0] == strategy


@pytest.mark.parametrize(("asked", "version"), [("auto", 0), ("tasks", 2), ("partition", 1), ("slices", 1)])
def test_a_strategy_that_is_not_there_is_refused(asked: str, version: int) -> None:
    with pytest.raises(IsolationError, match="cgroup"):
        choose(asked, version, "6.1.0")
