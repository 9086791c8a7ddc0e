# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Installing the host runner: which files, in which order, and that nothing of it is left."""

from __future__ import annotations

import itertools
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
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import (
    HOOK,
    HOOKSCRIPT,
    LIBVIRT,
    PROXMOX,
    ROOT,
    RUNNER,
    UNIT,
)
from ansible_collections.vfio.isolation.plugins.module_utils._host_files import (
    START,
    WANTS,
    Difference,
    Snippet,
    claim_file,
    hook_files,
    hookscript_files,
    on_demand_file,
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


SCRIPT = Snippet("local:snippets/vfio-isolation", "/var/lib/vz/snippets/vfio-isolation")
SCRIPT_FILES = (HOOKSCRIPT, PROXMOX.configuration, SCRIPT.path)


@pytest.mark.parametrize("order", list(itertools.permutations(["hook", "hookscript", "claim"])), ids="-".join)
def test_the_runner_goes_with_the_last_of_libvirt_s_hook_proxmox_s_and_the_claims(
    tmp_path: Path, order: Sequence[str]
) -> None:
    host = host_with_libvirt(tmp_path)
    before, installation = files(tmp_path), Installation(host, check=False)
    installation.hook(hook_files({}, {}, PYTHON))
    installation.install(hookscript_files(SCRIPT, {"100": {}}, None, PYTHON), SCRIPT_FILES, lambda _found: None)
    installation.persist("host", unit_files("host", [], PYTHON))
    left = {"hook": {HOOK, LIBVIRT.default}, "hookscript": {*SCRIPT_FILES, PROXMOX.file("100")}, "claim": {UNIT}}
    remove: Dict[str, Callable[[], List[Difference]]] = {
        "hook": installation.unhook,
        "hookscript": lambda: installation.uninstall(SCRIPT_FILES, lambda _found: None),
        "claim": lambda: installation.stop_persisting(None),
    }
    for what in order:
        assert host.exists(START) and all(host.exists(path) for paths in left.values() for path in paths)
        gone = left.pop(what)
        remove[what]()
        assert not any(host.exists(path) for path in gone)
    assert files(tmp_path) == before and not host.exists(RUNNER) and not host.exists(ROOT)


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
    assert ("systemctl", "disable", "--", unit) in host.commands and not host.exists(UNIT)
    assert ("systemctl", "stop", "--job-mode=ignore-dependencies", "--", unit) in host.commands


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

    systemd disables no unit without a file, and runs what it started until it is stopped. With a unit it stops those
    that require it (`required_by`), unless told otherwise, and in any case those that are bound to it (`bound_by`).
    """

    def __init__(self, root: str) -> None:
        super().__init__(root, {"/etc/libvirt/libvirtd.conf": "", "/etc/systemd/system/other.service": ""})
        self.active: Set[str] = {"libvirtd.service", "virtqemud.service"}
        self.refused: Set[str] = set()
        self.unwritable: Set[str] = set()
        self.required_by: Dict[str, Set[str]] = {}
        self.bound_by: Dict[str, Set[str]] = {}
        self.states: Dict[str, str] = {}  # other than active and inactive
        self._is_alone = False

    def _answer(self, argv: Sequence[str]) -> Tuple[int, str, str]:
        self.commands.append(tuple(argv))
        verb, units = argv[1], [word for word in argv[2:] if word.endswith(".service")]
        if verb == "show":
            (unit,) = units
            enabled = "enabled" if os.path.lexists(self.path(f"{WANTS}/{unit}")) else "disabled"
            known = {
                "ActiveState": self.states.get(unit, "active" if unit in self.active else "inactive"),
                "UnitFileState": enabled,
                "RequiredBy": " ".join(sorted(self.required_by.get(unit, ()))),
                "BoundBy": " ".join(sorted(self.bound_by.get(unit, ()))),
            }
            return 0, "".join(f"{known[name]}\n" for name in known if name in argv[4].split(",")), ""
        self._is_alone = "--job-mode=ignore-dependencies" in argv
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
            self.active -= self.bound_by.get(unit, set())
            self.active -= set() if self._is_alone else self.required_by.get(unit, set())
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


# On demand


DROP_IN = on_demand_file(CLAIM)
LINK = f"{WANTS}/{VM_UNIT}"
VM = "vm.service"


def wanted(on_demand: bool) -> Dict[str, Any]:
    """The files of the claim."""
    return unit_files(CLAIM, STEPS, PYTHON, on_demand)


def persist(host: HostWithSystemd, on_demand: bool, check: bool = False) -> List[Difference]:
    """Have the claim applied on demand, or at boot."""
    return Installation(host, check).persist(CLAIM, wanted(on_demand), on_demand)


def changing(host: HostWithSystemd) -> List[Tuple[str, ...]]:
    """The commands that were to change something, without systemctl."""
    return [command[1:] for command in host.commands if command[1] != "show"]


def test_a_claim_on_demand_is_neither_enabled_nor_started(tmp_path: Path) -> None:
    host = HostWithSystemd(str(tmp_path))
    before = host.everything()
    announced = persist(host, True, check=True)
    assert host.everything() == before and changing(host) == []
    assert persist(host, True) == announced
    assert [change.path for change in announced] == sorted({**runner_files(), **wanted(True)})
    assert "[Unit]\nStopWhenUnneeded=yes" in (host.read(DROP_IN) or "")
    assert DROP_IN == "/etc/systemd/system/vfio-isolation@win\\x2011.service.d/on-demand.conf"
    assert VM_UNIT not in host.active and not os.path.lexists(host.path(LINK))
    assert changing(host)[0] == ("daemon-reload",) and not {"enable", "start"} & {
        command[0] for command in changing(host)
    }

    writes = host.writes
    host.commands.clear()
    assert persist(host, True) == [] and host.writes == writes and changing(host) == []

    Installation(host, check=False).stop_persisting([CLAIM])
    assert host.everything() == before and not host.exists(os.path.dirname(DROP_IN)) and not host.exists(ROOT)


def test_systemd_is_told_of_a_drop_in_that_is_mended(tmp_path: Path) -> None:
    host = HostWithSystemd(str(tmp_path))
    persist(host, True)
    right = host.everything()
    host.put(DROP_IN, "[Unit]\n")
    host.commands.clear()
    assert [change.path for change in persist(host, True)] == [DROP_IN]
    assert host.everything() == right and changing(host)[0] == ("daemon-reload",)


def test_a_claim_that_is_applied_on_demand_can_have_other_steps_meanwhile(tmp_path: Path) -> None:
    """The unit stays as it is: who requires it goes on running."""
    host = HostWithSystemd(str(tmp_path))
    persist(host, True)
    host.active |= {VM_UNIT, VM}
    host.required_by[VM_UNIT] = {VM}
    host.commands.clear()
    found = Installation(host, check=False).persist(CLAIM, unit_files(CLAIM, [], PYTHON, True), True)
    assert [change.path for change in found] == [claim_file(CLAIM)]
    assert changing(host) == [] and {VM_UNIT, VM} <= host.active


@pytest.mark.parametrize("is_required", [True, False])
def test_from_boot_to_on_demand_and_back(tmp_path: Path, is_required: bool) -> None:
    host = HostWithSystemd(str(tmp_path))
    host.required_by[VM_UNIT] = {VM}
    host.active |= {VM} if is_required else set()
    persist(host, False)
    at_boot = host.everything()
    assert VM_UNIT in host.active and os.path.lexists(host.path(LINK))

    announced = persist(host, True, check=True)
    assert host.everything() == at_boot
    assert persist(host, True) == announced
    assert [change.path for change in announced] == [DROP_IN, LINK] and announced[1].after is None
    assert not os.path.lexists(host.path(LINK)) and host.exists(DROP_IN)
    # What requires it goes on with it.
    assert (VM_UNIT in host.active, VM in host.active) == (is_required, is_required)
    assert persist(host, True) == []

    announced = persist(host, False, check=True)
    assert persist(host, False) == announced
    assert [change.path for change in announced] == [DROP_IN, LINK] and announced[1].before is None
    assert host.everything() == at_boot and not host.exists(os.path.dirname(DROP_IN))
    assert persist(host, False) == []


def test_a_unit_that_somebody_started_without_need_is_stopped(tmp_path: Path) -> None:
    host = HostWithSystemd(str(tmp_path))
    persist(host, True)
    host.active.add(VM_UNIT)
    assert [change.path for change in persist(host, True, check=True)] == [LINK] and VM_UNIT in host.active
    assert [change.path for change in persist(host, True)] == [LINK] and VM_UNIT not in host.active


def test_who_requires_the_unit_of_a_claim(tmp_path: Path) -> None:
    host = HostWithSystemd(str(tmp_path))
    installation = Installation(host, check=True)
    assert not installation.is_required(CLAIM)
    host.required_by[VM_UNIT] = {VM, "other.service"}
    assert not installation.is_required(CLAIM)  # neither runs
    host.active.add(VM)
    assert installation.is_required(CLAIM) and not installation.is_required("win")
    host.required_by, host.bound_by = {}, {VM_UNIT: {VM}}
    assert installation.is_required(CLAIM)


@pytest.mark.parametrize(
    ("state", "is_required"),
    [
        ("active", True),
        ("activating", True),
        ("reloading", True),
        ("deactivating", True),
        ("inactive", False),
        ("failed", False),
    ],
)
def test_a_vm_that_starts_or_stops_requires_its_claim_too(tmp_path: Path, state: str, is_required: bool) -> None:
    host = HostWithSystemd(str(tmp_path))
    host.required_by[VM_UNIT] = {VM, "multi-user.target"}
    host.active.add("multi-user.target")  # which starts it at boot, and requires nothing
    host.states[VM] = state
    assert Installation(host, check=True).is_required(CLAIM) is is_required
    host.required_by.clear()
    host.states[VM_UNIT] = state
    assert Installation(host, check=True).is_required(CLAIM) is (state == "activating")  # for one that waits


def test_a_claim_on_demand_of_a_vm_that_runs_already_ends_with_it(tmp_path: Path) -> None:
    host = HostWithSystemd(str(tmp_path))
    required_by_vm(host)
    announced = persist(host, True, check=True)
    assert announced[-1].path == LINK and VM_UNIT not in host.active
    assert persist(host, True) == announced and VM_UNIT in host.active
    assert ("start", "--", VM_UNIT) in changing(host) and not os.path.lexists(host.path(LINK))
    assert persist(host, True) == []


@pytest.mark.parametrize("on_demand", [True, False])
@pytest.mark.parametrize(
    ("required_by", "bound_by", "expected"),
    [
        ({VM}, set(), [("disable", "--", VM_UNIT), ("stop", "--job-mode=ignore-dependencies", "--", VM_UNIT)]),
        (set(), {VM}, [("disable", "--", VM_UNIT)]),
        ({VM}, {VM}, [("disable", "--", VM_UNIT)]),
        (
            {"other.service"},
            set(),
            [("disable", "--", VM_UNIT), ("stop", "--job-mode=ignore-dependencies", "--", VM_UNIT)],
        ),
    ],
    ids=["required", "bound", "both", "required by one that does not run"],
)
def test_no_vm_is_stopped_with_the_claim_that_it_requires(
    tmp_path: Path,
    on_demand: bool,
    required_by: Set[str],
    bound_by: Set[str],
    expected: List[Tuple[str, ...]],
) -> None:
    host = HostWithSystemd(str(tmp_path))
    before = host.everything()
    persist(host, on_demand)
    host.active |= {VM_UNIT, VM}
    host.required_by[VM_UNIT], host.bound_by[VM_UNIT] = required_by, bound_by
    host.commands.clear()
    Installation(host, check=False).stop_persisting([CLAIM])
    assert changing(host) == [*expected, ("daemon-reload",)]
    assert VM in host.active and (VM_UNIT in host.active) == bool(bound_by)
    assert {**host.everything(), VM_UNIT: "", VM: ""} == {**before, VM_UNIT: "", VM: ""}


def required(host: HostWithSystemd) -> None:
    """This claim persists already, and what runs requires it."""
    persisting_otherwise(host)
    required_by_vm(host)


def required_by_vm(host: HostWithSystemd) -> None:
    """What runs requires the claim's unit, which does not exist yet."""
    host.active.add(VM)
    host.required_by[VM_UNIT] = {VM}


@pytest.mark.parametrize(
    ("refused", "unwritable"),
    [(set(), {claim_file(CLAIM)}), (set(), {DROP_IN}), ({"daemon-reload"}, set()), ({"disable"}, set())],
)
@pytest.mark.parametrize("there", [untouched, hand_made, persisting_otherwise, required])
def test_a_claim_that_cannot_become_one_on_demand_is_as_before(
    tmp_path: Path, there: Callable[[HostWithSystemd], None], refused: Set[str], unwritable: Set[str]
) -> None:
    host = HostWithSystemd(str(tmp_path))
    there(host)
    before = host.everything()
    host.refused, host.unwritable = refused, unwritable
    with pytest.raises(IsolationError):
        persist(host, True)
    host.refused, host.unwritable = set(), set()
    assert host.everything() == before
    persist(host, True)
    assert host.exists(DROP_IN) and not os.path.lexists(host.path(LINK))
    assert (VM_UNIT in host.active) == (VM in host.active) == (there is required)


def test_a_claim_that_cannot_be_stopped_does_not_become_one_on_demand(tmp_path: Path) -> None:
    host = HostWithSystemd(str(tmp_path))
    persisting_otherwise(host)
    before = host.everything()
    host.refused = {"stop"}
    with pytest.raises(IsolationError):
        persist(host, True)
    assert host.everything() == before


@pytest.mark.parametrize("on_demand", [True, False])
def test_no_vm_that_already_requires_the_claim_is_stopped_if_it_cannot_persist(tmp_path: Path, on_demand: bool) -> None:
    host = HostWithSystemd(str(tmp_path))
    required_by_vm(host)
    before = host.everything()
    host.refused = {"daemon-reload"}
    with pytest.raises(IsolationError):
        persist(host, on_demand)
    assert host.everything() == before


@pytest.mark.parametrize(
    ("refused", "unwritable"),
    [(set(), {DROP_IN}), ({"daemon-reload"}, set()), ({"enable"}, set()), ({"start"}, set())],
)
def test_a_claim_on_demand_that_cannot_be_applied_at_boot_stays_on_demand(
    tmp_path: Path, refused: Set[str], unwritable: Set[str]
) -> None:
    host = HostWithSystemd(str(tmp_path))
    persist(host, True)
    before = host.everything()
    host.refused, host.unwritable = refused, unwritable
    with pytest.raises(IsolationError):
        persist(host, False)
    host.refused, host.unwritable = set(), set()
    assert host.everything() == before and persist(host, True) == []


@pytest.mark.parametrize(
    ("refused", "unwritable"),
    [
        (set(), {DROP_IN}),
        (set(), {claim_file(CLAIM)}),
        (set(), {UNIT}),
        (set(), {START}),
        ({"daemon-reload"}, set()),
        ({"disable"}, set()),
        ({"stop"}, set()),
    ],
)
@pytest.mark.parametrize("on_demand", [True, False])
def test_a_required_claim_that_cannot_stop_persisting_persists_as_before(
    tmp_path: Path, on_demand: bool, refused: Set[str], unwritable: Set[str]
) -> None:
    host = HostWithSystemd(str(tmp_path))
    persist(host, on_demand)
    host.active |= {VM_UNIT, VM}
    host.required_by[VM_UNIT] = {VM}
    if not on_demand and DROP_IN in unwritable:
        return  # it has none
    before = host.everything()
    host.refused, host.unwritable = refused, unwritable
    with pytest.raises(IsolationError):
        Installation(host, check=False).stop_persisting(None)
    host.refused, host.unwritable = set(), set()
    assert host.everything() == before
    Installation(host, check=False).stop_persisting(None)
    assert VM in host.active and VM_UNIT not in host.active and not host.exists(RUNNER)


@pytest.mark.parametrize("there", [untouched, hand_made, persisting])
def test_a_hookscript_that_proxmox_does_not_take_is_not_left_there(
    tmp_path: Path, there: Callable[[HostWithSystemd], None]
) -> None:
    host = HostWithSystemd(str(tmp_path))
    there(host)
    before = host.everything()
    installation = Installation(host, check=False)
    script = hookscript_files(SCRIPT, {"100": {}}, {}, PYTHON)

    def refuse(found: Sequence[Difference]) -> None:
        assert SCRIPT.path in {change.path for change in found}
        raise Refused("/usr/sbin/qm set 100 --hookscript", SCRIPT.volume, "VM is locked (backup)")

    with pytest.raises(IsolationError, match="VM is locked"):
        installation.install(script, SCRIPT_FILES, refuse)
    assert host.everything() == before
    installation.install(script, SCRIPT_FILES, lambda _found: None)
    before = host.everything()
    with pytest.raises(IsolationError, match="VM is locked"):
        installation.uninstall(SCRIPT_FILES, refuse)
    assert host.everything() == before
