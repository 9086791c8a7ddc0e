# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Installing the host runner: which files, in which order, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils import _host_files
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError, Refused
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import HOOK, LIBVIRT, ROOT, RUNNER, UNIT
from ansible_collections.vfio.isolation.plugins.module_utils._host_files import (
    START,
    WANTS,
    claim_file,
    hook_files,
    runner_files,
    unit_files,
    version_in,
)
from ansible_collections.vfio.isolation.plugins.module_utils._install import (
    Installation,
    check_persistable,
    check_python,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted

PYTHON = "/usr/bin/python3"
ENGINE = f"{RUNNER}/{version_in(runner_files()[START].text)}/engine"
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
    assert json.loads(host.read(LIBVIRT.file("win 11")) or "") == {"required": True}
    assert json.loads(host.read(LIBVIRT.default) or "") == {}
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
    host.put(f"{ENGINE}/_old.py", "")
    host.put(f"{ENGINE}/__pycache__/x.pyc", "")
    host.put(f"{ENGINE}/_cpus.py", "import os\n")
    os.chmod(host.path(LIBVIRT.file("one")), 0o666)
    changes = Installation(host, check=False).hook(hook_files({"one": {}}, None, PYTHON))
    assert [change.path for change in changes] == [
        LIBVIRT.file("one"),
        LIBVIRT.file("two"),
        f"{ENGINE}/_cpus.py",
        f"{ENGINE}/_old.py",
    ]
    assert os.stat(host.path(LIBVIRT.file("one"))).st_mode & 0o777 == 0o644
    assert LIBVIRTD not in host.commands  # it knows the hook


def of_a_version(monkeypatch: pytest.MonkeyPatch, number: int) -> str:
    """Have another version of the engine be what is installed. Returns its directory."""
    entry = f"def main(_arguments):\n    print({number})\n    return 0\n"
    sources = {**_host_files._sources(), "entries/runner.py": entry}
    monkeypatch.setattr(_host_files, "_sources", lambda: sources)
    return f"{RUNNER}/{version_in(runner_files()[START].text)}"


def runs(host: FakeHost) -> int:
    """The version of a run that starts now."""
    command = [sys.executable, "-I", "-S", host.path(RUNNER), "runner"]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def test_a_run_has_all_its_modules_from_one_version_whenever_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each write of an upgrade, and back; and what is running may go on importing its own version."""
    host = host_with_libvirt(tmp_path)
    wanted = hook_files({}, {}, PYTHON)
    first = of_a_version(monkeypatch, 1)
    Installation(host, check=False).hook(wanted)
    modules = {path: host.read(path) for path in runner_files() if path.startswith(first)}
    second = of_a_version(monkeypatch, 2)
    seen: List[int] = []

    def look(what: str) -> None:
        present = {path: host.read(path) for path in modules}
        assert present == modules, what
        new = {path for path in runner_files() if path.startswith(second)}
        version = version_in(host.read(START) or "")
        assert f"{RUNNER}/{version}" == first or all(host.exists(path) for path in new), what
        seen.append(1 if f"{RUNNER}/{version}" == first else 2)

    host._wrote = look
    assert runs(host) == 1
    announced = Installation(host, check=True).hook(wanted)
    assert not seen and Installation(host, check=False).hook(wanted) == announced
    assert sorted(seen) == seen and set(seen) == {1, 2}
    assert runs(host) == 2
    host._wrote = None
    assert Installation(host, check=False).hook(wanted) == []

    third = of_a_version(monkeypatch, 3)
    announced = Installation(host, check=True).hook(wanted)
    assert Installation(host, check=False).hook(wanted) == announced
    assert [f"{RUNNER}/{name}" for name in host.list(RUNNER)] == sorted([START, second, third])
    assert runs(host) == 3
    Installation(host, check=False).unhook()
    assert not host.exists(RUNNER)


def test_an_upgrade_that_fails_leaves_the_version_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = HostWithSystemd(str(tmp_path))
    wanted = hook_files({}, {}, PYTHON)
    first = of_a_version(monkeypatch, 1)
    Installation(host, check=False).hook(wanted)
    before = host.everything()
    of_a_version(monkeypatch, 2)
    for path in (START, f"{RUNNER}/{version_in(runner_files()[START].text)}/engine/errors.py"):
        host.unwritable = {path}
        with pytest.raises(IsolationError):
            Installation(host, check=False).hook(wanted)
        host.unwritable = set()
        assert host.everything() == before and sorted([START, first]) == [f"{RUNNER}/{n}" for n in host.list(RUNNER)]
        assert runs(host) == 1
        for cached in Path(host.path(RUNNER)).rglob("__pycache__"):
            shutil.rmtree(cached)


def test_the_layout_before_there_were_versions_stays_for_what_runs_and_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = host_with_libvirt(tmp_path)
    host.put(START, "cache = cache_imports(os.path.dirname(__file__) + '/engine')\n")
    host.put(f"{RUNNER}/engine/model.py", "")
    host.put(f"{RUNNER}/engine/__pycache__/all.cpython-311", "")
    wanted = hook_files({}, {}, PYTHON)
    first = of_a_version(monkeypatch, 1)
    Installation(host, check=False).hook(wanted)
    assert host.exists(f"{RUNNER}/engine/model.py") and Installation(host, check=False).hook(wanted) == []
    second = of_a_version(monkeypatch, 2)
    Installation(host, check=False).hook(wanted)
    assert sorted(f"{RUNNER}/{name}" for name in host.list(RUNNER)) == sorted([START, first, second])


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    host = host_with_libvirt(tmp_path)
    host.put("/elsewhere", "untouched")
    os.makedirs(host.path(os.path.dirname(LIBVIRT.default)))
    os.symlink(host.path("/elsewhere"), host.path(LIBVIRT.default))
    Installation(host, check=False).hook(hook_files({}, {}, PYTHON))
    assert not os.path.islink(host.path(LIBVIRT.default)) and host.read("/elsewhere") == "untouched"


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
    assert saved[-2:] == [f"saved {LIBVIRT.file('one')}", f"saved {HOOK}"]
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


# All or nothing


class HostWithSystemd(FakeHost):
    """A host whose systemd enables and starts units; `refused` are the commands that fail, by verb or unit.

    systemd disables no unit without a file, and runs what it started until it is stopped.
    """

    def __init__(self, root: str) -> None:
        super().__init__(root, {"/etc/libvirt/libvirtd.conf": "", "/etc/systemd/system/other.service": ""})
        self.active: Set[str] = {"libvirtd.service", "virtqemud.service"}
        self.refused: Set[str] = set()
        self.unwritable: Set[str] = set()

    def _answer(self, argv: Sequence[str]) -> Tuple[int, str, str]:
        self.commands.append(tuple(argv))
        verb, units = argv[1], [word for word in argv[2:] if word.endswith(".service")]
        if verb == "show":
            (unit,) = units
            enabled = "enabled" if os.path.lexists(self.path(f"{WANTS}/{unit}")) else "disabled"
            known = {"ActiveState": "active" if unit in self.active else "inactive", "UnitFileState": enabled}
            return 0, "".join(f"{known[name]}\n" for name in known if name in argv[4]), ""
        done = [self._carry_out(verb, unit) for verb in self._verbs(argv) for unit in units or [""]]
        return (0, "", "") if all(done) else (1, "", f"Failed to {verb}")

    def _verbs(self, argv: Sequence[str]) -> List[str]:
        also = {"enable": ["start"], "disable": ["stop"]}.get(argv[1], []) if "--now" in argv else []
        return [argv[1], *also]

    def _carry_out(self, verb: str, unit: str) -> bool:
        if {verb, unit} & self.refused:
            return False
        link = self.path(f"{WANTS}/{unit}")
        if verb in ("enable", "disable") and not self.exists(UNIT):
            return False
        if verb == "enable" and not os.path.lexists(link):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(UNIT, link)
        elif verb == "disable" and os.path.lexists(link):
            os.unlink(link)
        elif verb == "start":
            self.active.add(unit)
        elif verb == "stop":
            self.active.discard(unit)
        return True

    def save(self, path: str, text: str, mode: int = 0o644) -> None:
        if path in self.unwritable:
            raise Refused(path, "a new version of the file", "No space left on device (ENOSPC)")
        super().save(path, text, mode)

    def remove(self, path: str) -> None:
        if path in self.unwritable:
            raise Refused(path, "its removal", "Read-only file system (EROFS)")
        super().remove(path)

    def everything(self) -> Dict[str, Any]:
        """Each file with its bytes and mode, each link, each unit that runs."""
        found: Dict[str, Any] = dict.fromkeys(self.active, "active")
        for path in Path(self.root).rglob("*"):
            if path.is_symlink():
                found[str(path)] = os.readlink(path)
            elif not path.is_dir():
                found[str(path)] = (path.read_bytes(), path.stat().st_mode)
        return found


CLAIM = "win 11"
VM_UNIT = "vfio-isolation@win\\x2011.service"
STEPS = [{"drop_caches": {"sync": True}}]


def hand_made(host: HostWithSystemd) -> None:
    """Files of ours that somebody has edited: without an end, not UTF-8, of another mode, a link."""
    for path, text, mode in (
        (claim_file(CLAIM), b"{ no end", 0o600),
        (f"{RUNNER}/__main__.py", b"# \xff\n\n\n", 0o640),
        (f"{ENGINE}/__init__.py", b"\n", 0o755),
    ):
        host.put(path, "")
        Path(host.path(path)).write_bytes(text)
        os.chmod(host.path(path), mode)
    os.makedirs(host.path(os.path.dirname(UNIT)), exist_ok=True)
    host.put("/elsewhere", "")
    os.symlink("/elsewhere", host.path(UNIT))


def untouched(host: HostWithSystemd) -> None:
    """As it was bought."""


def persisting(host: HostWithSystemd) -> None:
    """Another claim persists already."""
    Installation(host, check=False).persist("host", unit_files("host", [], PYTHON))


def persisting_otherwise(host: HostWithSystemd) -> None:
    """This claim persists already, with other steps and another Python."""
    Installation(host, check=False).persist(CLAIM, unit_files(CLAIM, [], "/usr/bin/python3.8"))


REFUSALS = [
    (set(), {claim_file(CLAIM)}),
    (set(), {UNIT}),
    (set(), {f"{RUNNER}/__main__.py"}),
    ({"daemon-reload"}, set()),
    ({"enable"}, set()),
    ({"start"}, set()),
]


@pytest.mark.parametrize(("refused", "unwritable"), REFUSALS)
@pytest.mark.parametrize("there", [untouched, hand_made, persisting, persisting_otherwise])
def test_a_claim_that_cannot_persist_leaves_files_and_units_as_they_were(
    tmp_path: Path, there: Callable[[HostWithSystemd], None], refused: Set[str], unwritable: Set[str]
) -> None:
    host = HostWithSystemd(str(tmp_path))
    there(host)
    if there in (persisting, persisting_otherwise) and f"{RUNNER}/__main__.py" in unwritable:
        host.put(f"{RUNNER}/__main__.py", "# an older one")
    before = host.everything()
    host.refused, host.unwritable = refused, unwritable
    if there is persisting and UNIT in unwritable:
        return  # it is right already
    with pytest.raises(IsolationError):
        Installation(host, check=False).persist(CLAIM, unit_files(CLAIM, STEPS, PYTHON))
    host.refused, host.unwritable = set(), set()
    assert host.everything() == before
    Installation(host, check=False).persist(CLAIM, unit_files(CLAIM, STEPS, PYTHON))
    assert VM_UNIT in host.active and os.path.lexists(host.path(f"{WANTS}/{VM_UNIT}"))


@pytest.mark.parametrize(
    ("refused", "unwritable"),
    [
        (set(), {claim_file("host")}),
        (set(), {UNIT}),
        (set(), {f"{ENGINE}/model.py"}),
        ({"daemon-reload"}, set()),
        ({"disable"}, set()),
        ({"stop"}, set()),
        ({"vfio-isolation@host.service"}, set()),
    ],
)
def test_claims_that_cannot_stop_persisting_persist_as_before(
    tmp_path: Path, refused: Set[str], unwritable: Set[str]
) -> None:
    host = HostWithSystemd(str(tmp_path))
    persisting(host)
    persisting_otherwise(host)
    os.chmod(host.path(claim_file("host")), 0o600)
    before = host.everything()
    host.refused, host.unwritable = refused, unwritable
    with pytest.raises(IsolationError):
        Installation(host, check=False).stop_persisting(None)
    host.refused, host.unwritable = set(), set()
    assert host.everything() == before
    Installation(host, check=False).stop_persisting(None)
    assert not host.active & {VM_UNIT, "vfio-isolation@host.service"} and not host.exists(ROOT)


def test_a_unit_that_was_enabled_and_not_started_is_just_that_again(tmp_path: Path) -> None:
    host = HostWithSystemd(str(tmp_path))
    persisting(host)
    host.active.discard("vfio-isolation@host.service")
    before = host.everything()
    host.refused = {"daemon-reload"}
    with pytest.raises(IsolationError):
        Installation(host, check=False).stop_persisting(["host"])
    assert host.everything() == before


@pytest.mark.parametrize("there", [untouched, hand_made, persisting])
@pytest.mark.parametrize("refused", ["libvirtd.service", "virtqemud.service"])
def test_a_hook_that_libvirt_does_not_take_is_not_left_there(
    tmp_path: Path, there: Callable[[HostWithSystemd], None], refused: str
) -> None:
    host = HostWithSystemd(str(tmp_path))
    there(host)
    before = host.everything()
    host.refused = {refused}
    wanted = hook_files({"one": {}}, {}, PYTHON)
    host.log.clear()
    with pytest.raises(IsolationError, match="Failed to reload"):
        Installation(host, check=False).hook(wanted)
    assert host.everything() == before
    undone = [line for line in host.log if HOOK in line or LIBVIRT.file("one") in line]
    assert undone == [
        f"saved {LIBVIRT.file('one')}",
        f"saved {HOOK}",
        f"removed {HOOK}",
        f"removed {LIBVIRT.file('one')}",
    ]
    host.refused = set()
    Installation(host, check=False).hook(wanted)
    host.refused, before = {refused}, host.everything()
    with pytest.raises(IsolationError, match="Failed to reload"):
        Installation(host, check=False).unhook()
    assert host.everything() == before


@pytest.mark.parametrize(("refused", "unwritable"), [*REFUSALS, ({"disable"}, set())])
@pytest.mark.parametrize("old", [None, "powersave"])
def test_a_claim_that_cannot_persist_is_what_it_was(
    tmp_path: Path, old: Optional[str], refused: Set[str], unwritable: Set[str]
) -> None:
    host = HostWithSystemd(str(tmp_path))
    stops = refused == {"disable"}
    if stops:
        persisting_otherwise(host)
    with booted() as kernel:
        if old:
            engine(kernel).apply(CLAIM, [step("cpu_governor", governor=old, cpus="0-3")])
        before, files_before = kernel.snapshot(), host.everything()
        host.refused, host.unwritable = refused, unwritable
        installation = Installation(host, check=False)
        new = [step("cpu_governor", governor="performance", cpus="2-5")]
        with pytest.raises(IsolationError, match="The claim 'win 11' is as it was before"):
            engine(kernel).apply_and_then(
                CLAIM,
                new,
                False,
                lambda: (
                    installation.stop_persisting([CLAIM])
                    if stops
                    else installation.persist(CLAIM, unit_files(CLAIM, STEPS, PYTHON))
                ),
            )
        assert kernel.snapshot() == before and host.everything() == files_before
        claims = engine(kernel).inspect()[0].claims
        assert [claim.steps[0].arguments["governor"] for claim in claims.values()] == ([old] if old else [])
