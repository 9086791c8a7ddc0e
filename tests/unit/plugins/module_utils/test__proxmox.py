# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hookscript of Proxmox VE: on which storage it can be, whose it is, and that all of it happens or nothing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError, Refused
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.proxmox import PVESH, QM
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import HOOKSCRIPT, PROXMOX, ROOT, RUNNER
from ansible_collections.vfio.isolation.plugins.module_utils._host_files import (
    START,
    Difference,
    File,
    Snippet,
    hookscript_files,
    runner_files,
)
from ansible_collections.vfio.isolation.plugins.module_utils._proxmox import Hookscript
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost

PYTHON = "/usr/bin/python3"
SCRIPT = "/var/lib/vz/snippets/vfio-isolation"
LOCAL, OTHER = "local:snippets/vfio-isolation", "other:snippets/vfio-isolation"
THEIRS = "local:snippets/theirs.pl"
# As `pvesh get /storage/NAME` has them.
STORAGES: Dict[str, Dict[str, Any]] = {
    "local": {"type": "dir", "path": "/var/lib/vz", "content": "backup,iso,snippets,vztmpl", "storage": "local"},
    "other": {
        "type": "nfs",
        "path": "/mnt/pve/other/",
        "content": "snippets",
        "content-dirs": {"snippets": "/a/hooks"},
    },
    "some": {"type": "dir", "path": "/mnt/some", "content": "iso,snippets", "content-dirs": {"iso": "isos"}},
    "plain": {"type": "dir", "path": "/mnt/plain", "content": "images"},
    "empty": {"type": "dir", "path": "/mnt/empty"},
    "snippets": {"type": "dir", "path": "/mnt/x", "content": "my-snippets,snippets2"},
    "tank": {"type": "zfspool", "pool": "rpool/data", "content": "images,rootdir,snippets"},
}
VMS = {
    "100": "affinity: 4-5\ncores: 2\n",
    "101": "affinity: 6\n\n[before]\naffinity: 7\nhookscript: local:snippets/old\n",
    "102": f"affinity: 7\nhookscript: {THEIRS}\n",
    "103": "cores: 1\n",
}


class ProxmoxHost(FakeHost):
    """A host whose pvesh knows STORAGES and whose qm sets the hookscripts of virtual machines, as Proxmox VE does.

    `locked_vms` are those whose configurations it does not change; `unwritable` are files that cannot be written.
    """

    def __init__(self, root: str, vms: Optional[Dict[str, str]] = None) -> None:
        super().__init__(root, {QM: "", f"{os.path.dirname(SCRIPT)}/theirs.pl": "", "/mnt/pve/other/x": ""})
        for name, text in (VMS if vms is None else vms).items():
            self.put(self._config(name), text)
        os.chmod(self.path(f"{os.path.dirname(SCRIPT)}/theirs.pl"), 0o755)
        self.locked_vms: Set[str] = set()
        self.unwritable: Set[str] = set()

    @staticmethod
    def _config(name: str) -> str:
        return f"/etc/pve/qemu-server/{name}.conf"

    def _answer(self, argv: Sequence[str]) -> Tuple[int, str, str]:
        if argv[0] not in (QM, PVESH):
            return super()._answer(argv)
        self.commands.append(tuple(argv))
        if argv[0] == PVESH:
            assert argv[1] == "get" and list(argv[3:]) == ["--output-format", "json"]
            found = STORAGES.get(argv[2].rpartition("/")[2])
            return (0, json.dumps(found), "") if found else (2, "", "storage does not exist\n")
        assert argv[1] == "set" and (argv[3] == "--hookscript" or argv[3:] == ("--delete", "hookscript"))
        refusal = self._set(argv[2], "" if argv[3] == "--delete" else argv[4])
        return (255, "", f"{refusal}\n") if refusal else (0, "", "")

    def _set(self, name: str, volume: str) -> str:
        """Change the main section of a configuration. Returns why not."""
        if name in self.locked_vms:
            return "VM is locked (backup)"
        if volume and not os.access(self.path(self.script(volume)), os.X_OK):
            return f"hookscript: script '{volume}' does not exist"
        path = Path(self.path(self._config(name)))
        main, *sections = re.split(r"^(?=\[)", path.read_text(encoding="utf-8"), maxsplit=1, flags=re.M)
        main = re.sub(r"^hookscript:.*\n", "", main, flags=re.M)
        line = f"hookscript: {volume}\n" if volume else ""
        blank = "\n" if sections else ""
        path.write_text(f"{main.rstrip()}\n{line}{blank}{''.join(sections)}", encoding="utf-8")
        return ""

    @staticmethod
    def script(volume: str) -> str:
        """Where a snippet is."""
        storage, name = volume.split(":snippets/")
        directories = {"other": "/mnt/pve/other/a/hooks", "some": "/mnt/some/snippets"}
        return f"{directories.get(storage, os.path.dirname(SCRIPT))}/{name}"

    def hookscripts(self) -> Dict[str, str]:
        """The hookscripts of the virtual machines that have one, each of which can be run."""
        found = {}
        for name in self.list("/etc/pve/qemu-server"):
            main = (self.read(f"/etc/pve/qemu-server/{name}") or "").split("\n[", 1)[0]
            for volume in re.findall(r"^hookscript: (.*)$", main, re.M):
                assert os.access(self.path(self.script(volume)), os.X_OK), f"{name} does not start: no {volume}"
                found[name[: -len(".conf")]] = volume
        return found

    def save(self, path: str, text: str, mode: int = 0o644) -> None:
        if path in self.unwritable:
            raise Refused(path, "a new version of the file", "No space left on device (ENOSPC)")
        super().save(path, text, mode)

    def remove(self, path: str) -> None:
        if path in self.unwritable:
            raise Refused(path, "its removal", "Read-only file system (EROFS)")
        super().remove(path)

    def everything(self) -> Dict[str, Any]:
        """Each file with its bytes and mode; of configurations the set of their lines, as qm moves them."""
        found: Dict[str, Any] = {}
        for path in Path(self.root).rglob("*"):
            if path.suffix == ".conf":
                found[str(path)] = sorted(path.read_text(encoding="utf-8").splitlines())
            elif not path.is_dir():
                found[str(path)] = (path.read_bytes(), path.stat().st_mode)
        return found

    def changes(self) -> List[Tuple[str, ...]]:
        """What qm was told, without its path and its verb."""
        return [command[2:] for command in self.commands if command[0] == QM]


def install(host: ProxmoxHost, *names: str, storage: str = "local", check: bool = False) -> List[Difference]:
    """Install the hookscript for these virtual machines."""
    hookscript = Hookscript(host, check)
    snippet = hookscript.on(storage)
    return hookscript.install(snippet, hookscript_files(snippet, {name: {} for name in names}, None, PYTHON), names)


def uninstall(host: ProxmoxHost, check: bool = False) -> List[Difference]:
    """Remove it."""
    hookscript = Hookscript(host, check)
    with hookscript.detached() as detached:
        return [*hookscript.uninstall(), *detached]


def config_change(name: str, before: str, after: str) -> Difference:
    """The line of a configuration that changes."""
    lines = [File(f"hookscript: {volume}\n") if volume else None for volume in (before, after)]
    return Difference(f"/etc/pve/qemu-server/{name}.conf", *lines)


# Where it can be


def test_a_host_without_qm_is_told_so(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {})
    with pytest.raises(IsolationError, match=r"not a Proxmox VE host: it has no /usr/sbin/qm; for libvirt, use libv"):
        Hookscript(host, check=True)


@pytest.mark.parametrize(
    ("storage", "path"),
    [
        ("local", SCRIPT),
        ("other", "/mnt/pve/other/a/hooks/vfio-isolation"),
        ("some", "/mnt/some/snippets/vfio-isolation"),
    ],
)
def test_where_the_hookscript_is_on_a_storage(tmp_path: Path, storage: str, path: str) -> None:
    host = ProxmoxHost(str(tmp_path))
    assert Hookscript(host, check=True).on(storage) == Snippet(f"{storage}:snippets/vfio-isolation", path)
    assert host.commands == [(PVESH, "get", f"/storage/{storage}", "--output-format", "json")]


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("none", "storage: Proxmox VE reports no storage 'none' on this host"),
        ("tank", "storage: tank is a storage of type zfspool, which has no directory for snippets"),
        ("plain", "storage: plain is not configured for snippets; .* pvesm set plain --content images,snippets$"),
        ("empty", "pvesm set empty --content snippets$"),
        ("snippets", "pvesm set snippets --content my-snippets,snippets2,snippets$"),
    ],
)
def test_a_storage_that_can_have_no_hookscript(tmp_path: Path, storage: str, words: str) -> None:
    with pytest.raises(IsolationError, match=words):
        Hookscript(ProxmoxHost(str(tmp_path)), check=True).on(storage)


@pytest.mark.parametrize("storage", ["", "a", "a b", "../local", "--help", "local/", "1st", "local\n", "x" * 300 + "_"])
def test_what_is_no_id_of_a_storage_is_asked_of_nobody(tmp_path: Path, storage: str) -> None:
    host = ProxmoxHost(str(tmp_path))
    with pytest.raises(IsolationError, match="is not the ID of a storage"):
        Hookscript(host, check=True).on(storage)
    assert host.commands == []


@pytest.mark.parametrize(
    "answer", ["", "[]", "null", "1", '{"path": "/x"}', "{", '{"type": "dir", "content-dirs": "x"}']
)
def test_an_answer_that_describes_no_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    host = ProxmoxHost(str(tmp_path))
    monkeypatch.setattr(host, "_run", lambda _argv: (0, answer, ""))
    with pytest.raises(IsolationError, match="Proxmox VE reports no storage 'local' on this host"):
        Hookscript(host, check=True).on("local")


# Installing


def test_it_is_installed_once_and_leaves_nothing(tmp_path: Path) -> None:
    host = ProxmoxHost(str(tmp_path))
    before = host.everything()
    announced = install(host, "100", "101", check=True)
    assert host.everything() == before and host.changes() == []
    found = install(host, "100", "101")
    assert found == announced
    assert [change.path for change in found[:-2]] == sorted(
        [*runner_files(), SCRIPT, HOOKSCRIPT, PROXMOX.file("100"), PROXMOX.file("101")]
    )
    assert found[-2:] == [config_change("100", "", LOCAL), config_change("101", "", LOCAL)]
    assert host.hookscripts() == {"100": LOCAL, "101": LOCAL, "102": THEIRS}
    assert "hookscript: local:snippets/old" in (host.read("/etc/pve/qemu-server/101.conf") or "").split("[before]")[1]
    assert host.mode(SCRIPT) == 0o755
    assert json.loads(host.read(HOOKSCRIPT) or "") == {"path": SCRIPT, "volume": LOCAL}

    host.commands.clear()
    writes = host.writes
    assert install(host, "100", "101") == [] and host.writes == writes and host.changes() == []

    announced, installed = uninstall(host, check=True), host.everything()
    assert host.changes() == []
    found = uninstall(host)
    assert [change.path for change in found] == [change.path for change in announced]
    assert (
        {SCRIPT, HOOKSCRIPT, START, PROXMOX.file("100")}
        <= {change.path for change in found}
        <= {path[len(str(tmp_path)) :] for path in installed}
    )
    assert host.everything() == before and not host.exists(RUNNER) and not host.exists(ROOT)
    assert uninstall(host) == []


def test_a_vm_that_starts_meanwhile_finds_all_of_it_or_nothing(tmp_path: Path) -> None:
    """The script is there as long as a VM has it, and the runner as long as anything is configured."""
    host = ProxmoxHost(str(tmp_path))

    def look(what: str) -> None:
        seen.append(bool({"100", "101"} & set(host.hookscripts())))
        assert not host.exists(PROXMOX.file("100")) or host.exists(START), what

    seen: List[bool] = []
    host._wrote = look
    install(host, "100", "101")
    assert sorted(seen) == seen and seen.count(True) == 2  # both are attached in the end
    seen.clear()
    uninstall(host)
    assert sorted(seen, reverse=True) == seen and seen.count(True) == 1  # and detached first


def test_a_vm_that_is_no_longer_named_keeps_the_hookscript_but_no_configuration(tmp_path: Path) -> None:
    """As a clone, it is left alone then."""
    host = ProxmoxHost(str(tmp_path))
    install(host, "100", "101")
    found = install(host, "100")
    assert [change.path for change in found] == [PROXMOX.file("101")]
    assert host.hookscripts() == {"100": LOCAL, "101": LOCAL, "102": THEIRS}
    assert not host.exists(PROXMOX.file("101"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["100", "102"], rf"vms: VM 102 already has the hookscript {THEIRS}, .* \(qm set 102 --delete hookscript\)"),
        (["100", "104"], "vms: there is no VM 104 on this host; there are 100, 101, 102, 103"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_a_vm_that_cannot_have_the_hookscript(tmp_path: Path, names: List[str], words: str, check: bool) -> None:
    host = ProxmoxHost(str(tmp_path))
    before = host.everything()
    with pytest.raises(IsolationError, match=words):
        install(host, *names, check=check)
    assert host.everything() == before and host.changes() == []


def test_on_a_host_without_vms_none_is_named(tmp_path: Path) -> None:
    host = ProxmoxHost(str(tmp_path), {})
    with pytest.raises(IsolationError, match="vms: there is no VM 100 on this host; there are none"):
        install(host, "100")
    assert [change.path for change in install(host)] == sorted([*runner_files(), SCRIPT, HOOKSCRIPT])


def test_which_vms_have_no_cpus(tmp_path: Path) -> None:
    hookscript = Hookscript(ProxmoxHost(str(tmp_path)), check=True)
    assert hookscript.without_cpus(["100", "103", "104"]) == ["103"]


def test_nobody_is_watched_any_more(tmp_path: Path) -> None:
    host = ProxmoxHost(str(tmp_path))
    Hookscript(host, check=True).stop_watching()
    assert host.commands == []
    Hookscript(host, check=False).stop_watching()
    assert host.commands == [("systemctl", "stop", "--", "vfio-isolation-vm-*.service")]


# To another storage


def test_to_another_storage_copies_go_along(tmp_path: Path) -> None:
    host = ProxmoxHost(str(tmp_path))
    install(host, "100")
    host.put("/etc/pve/qemu-server/110.conf", f"affinity: 4-5\nhookscript: {LOCAL}\n")
    announced = install(host, "100", storage="other", check=True)
    assert host.hookscripts() == {"100": LOCAL, "102": THEIRS, "110": LOCAL}
    found = install(host, "100", storage="other")
    new = ProxmoxHost.script(OTHER)
    assert found == announced
    assert [change.path for change in found[:-2]] == sorted([SCRIPT, new, HOOKSCRIPT])
    assert found[-2:] == [config_change("100", LOCAL, OTHER), config_change("110", LOCAL, OTHER)]
    assert host.hookscripts() == {"100": OTHER, "102": THEIRS, "110": OTHER}
    assert host.mode(new) == 0o755 and not host.exists(SCRIPT)
    assert install(host, "100", storage="other") == []
    uninstall(host)
    assert host.hookscripts() == {"102": THEIRS} and not host.exists(new) and not host.exists(RUNNER)


def test_a_vm_can_start_at_any_time_while_the_script_moves(tmp_path: Path) -> None:
    host = ProxmoxHost(str(tmp_path))
    install(host, "100", "101")
    host._wrote = lambda _what: host.hookscripts() and None
    install(host, "100", "101", storage="other")
    assert host.hookscripts() == {"100": OTHER, "101": OTHER, "102": THEIRS}


# All or nothing


@pytest.mark.parametrize(
    ("locked", "unwritable"),
    [({"100"}, set()), ({"101"}, set()), (set(), {SCRIPT}), (set(), {HOOKSCRIPT}), (set(), {START})],
)
def test_if_one_vm_or_file_is_refused_all_is_as_before(tmp_path: Path, locked: Set[str], unwritable: Set[str]) -> None:
    host = ProxmoxHost(str(tmp_path))
    before = host.everything()
    host.locked_vms, host.unwritable = locked, unwritable
    with pytest.raises(IsolationError, match="VM is locked" if locked else "No space left"):
        install(host, "100", "101")
    host.locked_vms, host.unwritable = set(), set()
    assert host.everything() == before and not host.exists(RUNNER) and not host.exists(ROOT)
    install(host, "100", "101")
    assert host.hookscripts() == {"100": LOCAL, "101": LOCAL, "102": THEIRS}


@pytest.mark.parametrize(
    ("locked", "unwritable"),
    [
        ({"100"}, set()),
        ({"101"}, set()),
        (set(), {ProxmoxHost.script(OTHER)}),
        (set(), {SCRIPT}),
        (set(), {HOOKSCRIPT}),
    ],
)
def test_if_one_cannot_move_to_another_storage_all_stay(tmp_path: Path, locked: Set[str], unwritable: Set[str]) -> None:
    host = ProxmoxHost(str(tmp_path))
    install(host, "100", "101")
    before = host.everything()
    host.locked_vms, host.unwritable = locked, unwritable
    with pytest.raises(IsolationError, match=r"VM is locked|No space left|Read-only"):
        install(host, "100", "101", storage="other")
    assert host.hookscripts() == {"100": LOCAL, "101": LOCAL, "102": THEIRS}
    assert host.everything() == before


@pytest.mark.parametrize(
    ("locked", "unwritable"),
    [
        ({"100"}, set()),
        ({"101"}, set()),
        (set(), {SCRIPT}),
        (set(), {HOOKSCRIPT}),
        (set(), {START}),
        (set(), {PROXMOX.file("101")}),
    ],
)
def test_if_it_cannot_be_removed_all_of_it_stays(tmp_path: Path, locked: Set[str], unwritable: Set[str]) -> None:
    host = ProxmoxHost(str(tmp_path))
    install(host, "100", "101")
    before = host.everything()
    host.locked_vms, host.unwritable = locked, unwritable
    with pytest.raises(IsolationError, match=r"VM is locked|Read-only"):
        uninstall(host)
    assert host.hookscripts() == {"100": LOCAL, "101": LOCAL, "102": THEIRS}
    host.locked_vms, host.unwritable = set(), set()
    assert host.everything() == before and install(host, "100", "101") == []
    uninstall(host)
    assert host.hookscripts() == {"102": THEIRS} and not host.exists(RUNNER)


def test_what_cannot_be_put_back_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = ProxmoxHost(str(tmp_path))
    change = ProxmoxHost._set

    def set_once(self: ProxmoxHost, name: str, volume: str) -> str:
        refusal = change(self, name, volume)
        self.locked_vms.update(["100", "101"])
        return refusal

    monkeypatch.setattr(ProxmoxHost, "_set", set_once)
    with pytest.raises(IsolationError) as refused:
        install(host, "100", "101")
    assert str(refused.value) == (
        f"{QM} set 101 --hookscript refused '{LOCAL}': VM is locked (backup);"
        f" {QM} set 100 --delete refused 'hookscript': VM is locked (backup)"
    )


@pytest.mark.parametrize("who", ["there", "snapshot", "nobody"])
def test_it_stays_as_long_as_vms_of_other_hosts_or_snapshots_have_it(tmp_path: Path, who: str) -> None:
    host = ProxmoxHost(str(tmp_path))
    host.put("/etc/pve/nodes/here/qemu-server/100.conf", VMS["100"])
    if who == "there":
        host.put("/etc/pve/nodes/there/qemu-server/200.conf", f"affinity: 4\nhookscript: {LOCAL}\n")
    if who == "snapshot":
        host.put("/etc/pve/qemu-server/100.conf", f"{VMS['100']}\n[before]\naffinity: 4\nhookscript: {LOCAL}\n")
    stays = who != "nobody"
    install(host, "100")
    announced = [change.path for change in uninstall(host, check=True)]
    assert [change.path for change in uninstall(host)] == announced and (SCRIPT in announced) is not stays
    assert host.exists(SCRIPT) is stays and not host.exists(RUNNER) and not host.exists(HOOKSCRIPT)
    assert uninstall(host) == []
    install(host, "100")
    install(host, "100", storage="some")
    assert host.exists(SCRIPT) is stays and host.exists("/mnt/some/snippets/vfio-isolation")
    uninstall(host)
    assert not host.exists("/mnt/some/snippets/vfio-isolation") and not host.exists(RUNNER)
