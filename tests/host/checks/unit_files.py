# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of others for a unit, in every place where systemd reads them: our list lasts, and theirs comes back."""

from __future__ import annotations

import contextlib
import os

from module_utils._engine.kernel.unit_files import LOAD_PATH

from .ground import (
    CGROUP,
    assert_isolated,
    at_end,
    engine,
    isolate,
    read,
    refused,
    reload_and_apply,
    revert,
    service,
    sh,
    snapshot,
    step,
    unchanged,
    write,
)

THEIRS = "AllowedCPUs=2-5\n"


def _given(path: str, text: str, mode: int = 0o644) -> None:
    """A file of somebody else's, until the check ends."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    at_end(lambda: _gone(path))
    write(path, text)
    os.chmod(path, mode)


def _gone(path: str) -> None:
    """Without that file, and its directory if that is one of drop-ins."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        if path.endswith(".conf"):
            os.rmdir(os.path.dirname(path))


def _reloaded_at_end() -> None:
    """systemd forgets what a check has given it, applies that, and the second time switches the controller off."""
    at_end(lambda: sh("systemctl daemon-reload; systemd-run --quiet --wait true; systemctl daemon-reload"))


def _ours_lasts(cgroup: str, what: str) -> None:
    """Theirs is in force; ours is through a daemon-reload and in a second run, until it is reverted."""
    reload_and_apply(os.path.basename(cgroup))
    assert read(f"{CGROUP}{cgroup}/cpuset.cpus") == "2-5", what
    before, property_before = snapshot(), _property(cgroup)
    ours = [step("cpuset", path=cgroup, cpus="0-3")]
    engine().apply("ours", ours)
    for time in ("first", "second"):
        if time == "second":  # as set-property has it before systemd 254: it does not reset what files before it list
            sh(f"sed -i '/^AllowedCPUs=$/d' /run/systemd/system.control/{os.path.basename(cgroup)}.d/50-*.conf")
        sh("systemctl daemon-reload")
        assert read(f"{CGROUP}{cgroup}/cpuset.cpus") == "0-3", f"{what}: gone at the {time} daemon-reload"
        assert not engine().apply("ours", ours).changed, what
    revert()
    unchanged(before, what)
    assert _property(cgroup) == property_before, what
    reload_and_apply(os.path.basename(cgroup))
    assert read(f"{CGROUP}{cgroup}/cpuset.cpus") == "2-5", what


def _property(cgroup: str) -> str:
    """The list that systemd has in memory, and writes whenever it sees fit."""
    return sh(f"systemctl show --value -p AllowedCPUs -- {os.path.basename(cgroup)}")


def check_unit_path_is_known() -> None:
    """Wherever this systemd looks for unit files, we do."""
    unit_path = sh("systemctl show --value -p UnitPath").split()
    assert not set(unit_path) - set(LOAD_PATH), unit_path


def _of_a_slice(path: str) -> None:
    service("in-own-slice", "", "Slice=own-a.slice")
    at_end(lambda: sh("systemctl stop own.slice"))
    _reloaded_at_end()
    _given(path, f"[Slice]\n{THEIRS}")
    _ours_lasts("/own.slice/own-a.slice", path)


def check_unit_file() -> None:
    """In the unit file itself."""
    _of_a_slice("/etc/systemd/system/own-a.slice")


def check_vendor_s_drop_in() -> None:
    """In a drop-in that a package has brought."""
    _of_a_slice("/usr/lib/systemd/system/own-a.slice.d/90-x.conf")


def check_drop_in_for_a_prefix() -> None:
    """In a drop-in for all slices whose names begin alike."""
    _of_a_slice("/etc/systemd/system/own-.slice.d/90-x.conf")


def check_drop_in_that_hides_ours() -> None:
    """In a drop-in with the name that set-property uses, in a directory that comes first."""
    _of_a_slice("/etc/systemd/system.control/own-.slice.d/50-AllowedCPUs.conf")


def check_overruled_set_property_of_others() -> None:
    """In a drop-in that is read after one of set-property, which is there, too, and says something else."""
    sh("systemctl set-property --runtime own-a.slice AllowedCPUs=0-7")
    at_end(lambda: _gone("/run/systemd/system.control/own-a.slice.d/50-AllowedCPUs.conf"))
    path = "/etc/systemd/system/own-a.slice.d/90-x.conf"
    service("in-own-slice", "", "Slice=own-a.slice")
    at_end(lambda: sh("systemctl stop own.slice"))
    _reloaded_at_end()
    _given(path, f"[Slice]\nAllowedCPUs=\n{THEIRS}")
    _ours_lasts("/own.slice/own-a.slice", path)


def check_generated_drop_in() -> None:
    """In what a generator writes at every daemon-reload: early, late and in between."""
    service("in-own-slice", "", "Slice=own-a.slice")
    at_end(lambda: sh("systemctl stop own.slice"))
    _reloaded_at_end()
    for argument in (1, 2, 3):
        script = f'#!/bin/sh\nmkdir -p "${argument}/own-a.slice.d"\n'
        script += f"printf '[Slice]\\n{THEIRS.strip()}\\n' > \"${argument}/own-a.slice.d/90-x.conf\"\n"
        if argument == 1:
            _given("/etc/systemd/system-generators/x", script, 0o755)
        write("/etc/systemd/system-generators/x", script)
        _ours_lasts("/own.slice/own-a.slice", f"a generator's directory {argument}")


def check_drop_in_for_all_slices_and_scopes() -> None:
    """In drop-ins for all units of a type: both strategies last."""
    _reloaded_at_end()
    _given("/etc/systemd/system/slice.d/90-x.conf", f"[Slice]\n{THEIRS}")
    _given("/usr/local/lib/systemd/system/scope.d/90-x.conf", f"[Scope]\n{THEIRS}")
    reload_and_apply()
    assert read(f"{CGROUP}/user.slice/cpuset.cpus") == read(f"{CGROUP}/init.scope/cpuset.cpus") == "2-5"
    for strategy in ("partition", "slices"):
        before = snapshot()
        isolate(strategy=strategy)
        sh("systemctl daemon-reload")
        assert_isolated(strategy=strategy)
        revert()
        unchanged(before, strategy)


def check_drop_ins_of_a_service() -> None:
    """For all services, and for another name of one."""
    unit = "/etc/systemd/system/own.service"
    _reloaded_at_end()
    _given(unit, "[Service]\nExecStart=sleep infinity\n")
    os.symlink(unit, "/etc/systemd/system/other.service")
    at_end(lambda: os.unlink("/etc/systemd/system/other.service"))
    sh("systemctl daemon-reload; systemctl start own")
    at_end(lambda: sh("systemctl stop own"))
    for directory in ("other.service.d", "service.d"):
        path = f"/etc/systemd/system/{directory}/90-x.conf"
        _given(path, f"[Service]\n{THEIRS}")
        _ours_lasts("/system.slice/own.service", path)
        _gone(path)


def check_disabled_controller() -> None:
    """A slice that has the cpuset controller disabled, wherever that is said: refused, and nothing changes."""
    service("in-own-slice", "", "Slice=own-a.slice")
    at_end(lambda: sh("systemctl stop own.slice"))
    job = [step("cpuset", path="/own.slice/own-a.slice", cpus="0-3")]
    for unit in ("-.slice", "own.slice", "own-a.slice"):
        path = f"/run/systemd/system/{unit}.d/x.conf"
        _reloaded_at_end()
        _given(path, "[Slice]\nDisableControllers=cpuset\n")
        sh("systemctl daemon-reload")
        before = snapshot()
        sentence = refused(lambda: engine().apply("ours", job))
        assert f" {unit} has DisableControllers=cpuset" in sentence, sentence
        unchanged(before, unit)
        _gone(path)
        sh("systemctl daemon-reload")
    sh("systemctl set-property --runtime own.slice DisableControllers=cpuset")
    at_end(lambda: sh("systemctl revert own.slice; rm -rf /run/systemd/system.control/own.slice.d"))
    assert " own.slice has DisableControllers=cpuset" in refused(lambda: engine().apply("ours", job))


def check_controller_that_is_disabled_later() -> None:
    """A claim that it takes the cpusets from is reverted all the same."""
    before = snapshot()
    isolate()
    path = "/run/systemd/system/-.slice.d/x.conf"
    _reloaded_at_end()
    _given(path, "[Slice]\nDisableControllers=cpuset\n")
    reload_and_apply()
    assert "cpuset" not in read(f"{CGROUP}/cgroup.subtree_control").split()
    warnings = isolate().warnings
    assert any("-.slice has DisableControllers=cpuset" in warning for warning in warnings), warnings
    revert()
    _gone(path)
    sh("systemctl daemon-reload")
    unchanged(before)
