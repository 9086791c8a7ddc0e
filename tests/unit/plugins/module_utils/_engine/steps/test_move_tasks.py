# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tasks that are moved, and returned."""

from __future__ import annotations

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Baseline


def test_tasks_are_moved_and_returned() -> None:
    with booted(Baseline(systemd=False)) as kernel:
        before = kernel.snapshot()
        outcome = engine(kernel).once(step("move_tasks", source="/system.slice/a.service", target="/own.slice"))
        assert outcome.changed
        assert not [thread for thread in kernel.threads.values() if thread.cgroup == "/system.slice/a.service"]
        engine(kernel).restore_prior(outcome.prior)
        assert kernel.snapshot() == before
