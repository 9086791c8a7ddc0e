# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Installing the host runner: which files, in which order, and that nothing of it is left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import DEFAULT, ROOT, domain_file
from ansible_collections.vfio.isolation.plugins.module_utils._host_files import (
    HOOK,
    RUNNER,
    UNIT,
    claim_file,
    hook_files,
    runner_files,
    unit_files,
)
from ansible_collections.vfio.isolation.plugins.module_utils._install import (
    Installation,
    check_persistable,
    check_python,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

PYTHON = "/usr/bin/python3"
LIBVIRTD = ("systemctl", "reload", "--", "libvirtd.service")


def host_with_libvirt(root: Path) -> FakeHost:
    """A host where libvirtd and units are active."""
    host = FakeHost(str(root), {"/etc/libvirt/libvirtd.conf": "", "/etc/systemd/system/other.service": ""})
    host.answers["show"] = (0, "active\n", "")
    return host


def files(root: Path) -> List[str]:
    """All files of the host."""
    return sorted(str(path)[len(str(root)) :] for path in root.rglob("*") if not path.is_dir())


def test_the_hook_is_installed_once_and_leaves_nothing(tmp_path: Path) -> None:
    host = host_with_libvirt(tmp_path)
    before = files(tmp_path)
    wanted = hook_files({"win 11": {"required": True, "isolate_host_mems": None}}, {}, PYTHON)
    announced = Installation(host, check=True).hook(wanted)
    assert files(tmp_path) == before and host.commands == []
    assert Installation(host, check=False).hook(wanted) == announced
    assert [change.path for change in announced] == sorted({**runner_files(), **wanted})
    assert os.stat(str(tmp_path) + HOOK).st_mode & 0o777 == 0o755
    assert json.loads(host.read(domain_file("win 11")) or "") == {"required": True}
    assert json.loads(host.read(DEFAULT) or "") == {}
    assert LIBVIRTD in host.commands
    writes = host.writes
    assert Installation(host, check=False).hook(wanted) == [] and host.writes == writes

    announced = Installation(host, check=True).unhook()
    assert [change.path for change in Installation(host, check=False).unhook()] == [change.path for change in announced]
    assert files(tmp_path) == before
    assert not host.exists(RUNNER) and not host.exists(ROOT) and not host.exists(os.path.dirname(HOOK))
    assert Installation(host, check=False).unhook() == []


def test_what_was_changed_is_mended_and_what_is_not_wanted_goes(tmp_path: Path) -> None:
    host = host_with_libvirt(tmp_path)
    Installation(host, check=False).hook(hook_files({"one": {}, "two": {}}, None, PYTHON))
    host.commands.clear()
    host.put(f"{RUNNER}/engine/_old.py", "")
    host.put(f"{RUNNER}/engine/__pycache__/x.pyc", "")
    host.put(f"{RUNNER}/engine/_cpus.py", "import os\n")
    os.chmod(host.path(domain_file("one")), 0o666)
    changes = Installation(host, check=False).hook(hook_files({"one": {}}, None, PYTHON))
    assert [change.path for change in changes] == [
        domain_file("one"),
        domain_file("two"),
        f"{RUNNER}/engine/_cpus.py",
        f"{RUNNER}/engine/_old.py",
    ]
    assert os.stat(host.path(domain_file("one"))).st_mode & 0o777 == 0o644
    assert LIBVIRTD not in host.commands  # it knows the hook


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    host = host_with_libvirt(tmp_path)
    host.put("/elsewhere", "untouched")
    os.makedirs(host.path(os.path.dirname(DEFAULT)))
    os.symlink(host.path("/elsewhere"), host.path(DEFAULT))
    Installation(host, check=False).hook(hook_files({}, {}, PYTHON))
    assert not os.path.islink(host.path(DEFAULT)) and host.read("/elsewhere") == "untouched"


def test_the_runner_stays_as_long_as_something_needs_it(tmp_path: Path) -> None:
    host = host_with_libvirt(tmp_path)
    installation = Installation(host, check=False)
    installation.hook(hook_files({}, {}, PYTHON))
    installation.persist("host", unit_files("host", [{"drop_caches": {}}], PYTHON))
    installation.persist("big/vm", unit_files("big/vm", [], PYTHON))
    installation.unhook()
    assert host.exists(RUNNER) and host.exists(UNIT)
    installation.stop_persisting(["host", "unknown"])
    assert host.exists(RUNNER) and host.exists(UNIT) and not host.exists(claim_file("host"))
    installation.hook(hook_files({}, {}, PYTHON))
    installation.stop_persisting(None)
    assert host.exists(RUNNER) and not host.exists(UNIT)
    installation.unhook()
    assert not host.exists(RUNNER) and not host.exists(ROOT)


def test_a_claim_that_persists(tmp_path: Path) -> None:
    host = host_with_libvirt(tmp_path)
    host.answers["show"] = (0, "inactive\n\n", "")
    wanted = unit_files("big vm", [{"drop_caches": {"sync": True}}], PYTHON)
    changes = Installation(host, check=False).persist("big vm", wanted)
    unit = "vfio-isolation@big\\x20vm.service"
    assert changes[-1].path.endswith(f"multi-user.target.wants/{unit}")
    assert ("systemctl", "enable", "--now", "--", unit) in host.commands
    path = f"{ROOT}/claims/big\\x20vm.json"
    assert json.loads(host.read(path) or "") == {"claim": "big vm", "steps": [{"drop_caches": {"sync": True}}]}
    assert f"persistent_claim start {ROOT}/claims/%i.json" in (host.read(UNIT) or "")
    host.answers["show"] = (0, "active\nenabled\n", "")
    assert Installation(host, check=False).persist("big vm", wanted) == []
    Installation(host, check=False).stop_persisting(None)
    assert ("systemctl", "disable", "--now", "--", unit) in host.commands and not host.exists(UNIT)


def test_the_hook_comes_last_and_goes_first(tmp_path: Path) -> None:
    """A VM that starts meanwhile finds all of it, or nothing."""
    host = host_with_libvirt(tmp_path)
    Installation(host, check=False).hook(hook_files({"one": {}}, None, PYTHON))
    saved = [line for line in host.log if line.startswith("saved ")]
    assert saved[-2:] == [f"saved {domain_file('one')}", f"saved {HOOK}"]
    host.log.clear()
    Installation(host, check=False).unhook()
    assert host.log[0] == f"removed {HOOK}"


def test_a_name_that_is_too_long_for_a_unit() -> None:
    check_persistable("x" * 232)
    for name in ("x" * 233, "é" * 30 + "x"):
        with pytest.raises(IsolationError, match="cannot persist"):
            check_persistable(name)


@pytest.mark.parametrize("python", ["python3", "/no/such", "/usr/bin/python3 -c evil", "/usr/bin/%n", "/bin/false"])
def test_a_python_that_cannot_run_the_engine(tmp_path: Path, python: str) -> None:
    host = FakeHost(str(tmp_path), {"/bin/false": "", "/usr/bin/python3 -c evil": "", "/usr/bin/%n": "", "/old": ""})
    host.answers["-I"] = (1, "", "")
    with pytest.raises(IsolationError, match=r"is not Python 3\.8 or newer on this host"):
        check_python(host, python)
    host.answers["-I"] = (0, "3 7\n", "")
    with pytest.raises(IsolationError, match="python: /old is not Python"):
        check_python(host, "/old")
    host.answers["-I"] = (0, "3 11\n", "")
    check_python(host, "/old")
