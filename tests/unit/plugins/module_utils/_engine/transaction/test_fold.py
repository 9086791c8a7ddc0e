# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From which values the fold starts."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Address, Journal
from ansible_collections.vfio.isolation.plugins.module_utils._engine.resources import Resources
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.fold import baseline_of
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.kernel.mounted import V2

IRQ, OTHER = Address("irq.affinity", "1"), Address("irq.affinity", "2")
LIST, OTHER_LIST = Address("cgroup.cpus", "/a"), Address("cgroup.cpus", "/b")
THREAD = Address("task.affinity", "12:34")


def test_what_adds_up_starts_from_the_baseline_for_all_and_the_rest_for_those_that_leave(tmp_path: Path) -> None:
    files = {"/proc/self/mountinfo": V2, "/sys/fs/cgroup/cgroup.controllers": "cpuset"}
    resources = Resources(FakeHost(str(tmp_path), files))
    journal = Journal({LIST: "", OTHER_LIST: "1", IRQ: "2", OTHER: "3"}, {})
    assert baseline_of(resources, journal, {LIST}) == {LIST: "", OTHER_LIST: "1"}
    assert baseline_of(resources, journal, {IRQ}) == {IRQ: "2"}
    assert baseline_of(resources, journal, {IRQ, OTHER_LIST, THREAD}) == {LIST: "", OTHER_LIST: "1", IRQ: "2"}
    assert baseline_of(resources, journal, set()) == {}
