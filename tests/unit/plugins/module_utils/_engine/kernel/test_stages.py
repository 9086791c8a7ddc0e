# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order of writes."""

from __future__ import annotations

from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.stages import Stage


def test_stages_are_listed_in_the_order_of_their_writes() -> None:
    assert list(Stage) == sorted(Stage) and len(set(map(int, Stage))) == len(Stage.__members__)


def test_what_depends_on_something_comes_behind_it() -> None:
    in_order = [
        (Stage.SET, Stage.DEPENDENT),
        (Stage.DISSOLVE_PARTITION, Stage.SHRINK_TO_KEPT, Stage.GROW_PARTITION, Stage.GROW_LIST, Stage.FORM_PARTITION),
        (Stage.GIVE_UP_EXCLUSIVE, Stage.GROW_NESTED, Stage.SHRINK_NESTED, Stage.REWRITE_NESTED, Stage.SET_FLAG),
        (Stage.CREATE_CGROUP, Stage.ENABLE_CONTROLLER, Stage.GROW_LIST, Stage.MOVE_TASK, Stage.SWEEP),
        (Stage.CREATE_CGROUP, Stage.MIGRATE_MEMORY, Stage.GROW_NESTED, Stage.MOVE_TASK),
        (Stage.SWEEP, Stage.DROP_IN, Stage.REMOVE_CGROUP, Stage.SHRINK_AGAIN, Stage.EMPTY_NESTED),
        (Stage.REMOVE_CGROUP, Stage.KEEP_CONTROLLER, Stage.WRITE_LIST_AGAIN, Stage.DISABLE_CONTROLLER),
        (Stage.DISABLE_CONTROLLER, Stage.BIND_THREAD),
    ]
    for stages in in_order:
        assert list(stages) == sorted(stages)


def test_systemd_forgets_removed_drop_ins_when_cgroups_are_gone_and_before_controllers_are_kept() -> None:
    behind = [stage for stage in Stage if stage.is_behind_systemd]
    before = [stage for stage in Stage if not stage.is_behind_systemd]
    assert behind == [
        Stage.KEEP_CONTROLLER,
        Stage.WRITE_LIST_AGAIN,
        Stage.DISABLE_CONTROLLER,
        Stage.BIND_THREAD,
    ]
    assert max(before) < min(behind) and {Stage.DROP_IN, Stage.REMOVE_CGROUP, Stage.RESET_FLAG} <= set(before)
