# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hookscript of Proxmox VE and what watches a VM: exit codes, what is said, and who gives a claim back."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import syslog
import threading
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries import proxmox_hook
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import Refused
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks import events
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel import host
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.host import Host
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.proxmox import ProxmoxVms
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import JOURNAL, PROXMOX, RUNNER
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, whole_job
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.files import Files
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)

CONFIG = "/etc/pve/qemu-server/100.conf"
LOCK = "/run/lock/qemu-server/lock-100.conf"
PID_FILE = "/run/qemu-server/100.pid"
QEMU = "kvm\0-pidfile\0/var/run/qemu-server/100.pid\0"
# It says that QEMU is pinned to a single CPU, so that nothing is to be said of partitions.
VM = "affinity: 4\nhookscript: local:snippets/vfio-isolation"


def put(root: str, path: str, text: str = "{}") -> None:
    """A file below a directory."""
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    Path(root + path).write_text(text, encoding="utf-8")


def claims(kernel: FakeKernel) -> List[str]:
    """The names of the claims."""
    journal = Path(kernel.root + JOURNAL)
    return sorted(json.loads(journal.read_text(encoding="utf-8"))["claims"]) if journal.exists() else []


@pytest.fixture(autouse=True)
def logged(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """What syslog gets."""
    lines: List[str] = []
    monkeypatch.setattr(syslog, "syslog", lambda _priority, line: lines.append(line))
    return lines


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    """A Proxmox VE host with VM 100, which does not run."""
    with booted() as fake:
        monkeypatch.setattr(host, "Host", lambda _root: fake)
        fake.part(Files).put(CONFIG, VM)
        yield fake


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> List[Tuple[str, ...]]:
    """The commands that systemd-run gets."""
    commands: List[Tuple[str, ...]] = []
    change = Host.change

    def answer(self: Host, *argv: str) -> None:
        if argv[0] != "systemd-run":
            change(self, *argv)
        else:
            commands.append(argv)

    monkeypatch.setattr(Host, "change", answer)
    return commands


def calls(root: str, *arguments: str) -> Tuple[int, str]:
    """The exit code, and what the task of Proxmox VE shows."""
    complained = StringIO()
    with redirect_stderr(complained):
        code = proxmox_hook.main(arguments, root)
    return code, complained.getvalue()


# What does nothing


@pytest.mark.parametrize(
    "arguments",
    [["100", "post-start"], ["100", "pre-stop"], ["100", "pre-migrate"], ["100", ""], ["100"], []],
    ids=" ".join,
)
def test_phases_that_are_not_ours_do_nothing_and_import_nothing(
    tmp_path: Path, logged: List[str], monkeypatch: pytest.MonkeyPatch, arguments: List[str]
) -> None:
    put(str(tmp_path), PROXMOX.default)
    put(str(tmp_path), PROXMOX.lock, "")
    monkeypatch.setitem(sys.modules, events.__name__, None)  # whoever imports it fails
    assert calls(str(tmp_path), *arguments) == (0, "") and logged == []
    assert calls(str(tmp_path), "100", "pre-start")[0] == 1  # as this one


@pytest.mark.parametrize("phase", ["pre-start", "post-stop"])
def test_where_nothing_is_configured_and_nothing_has_a_claim_nothing_is_imported(
    tmp_path: Path, logged: List[str], monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    put(str(tmp_path), PROXMOX.file("101"))
    monkeypatch.setitem(sys.modules, events.__name__, None)
    assert calls(str(tmp_path), "100", phase) == (0, "") and logged == []
    put(str(tmp_path), PROXMOX.lock, "")
    assert calls(str(tmp_path), "100", phase) == (0, "") and len(logged) == 1


# A start


@pytest.mark.parametrize(("is_locked", "phase"), [(True, "watch"), (False, "watch-unlocked")])
def test_a_vm_that_starts_with_a_claim_is_watched(
    kernel: FakeKernel, started: List[Tuple[str, ...]], is_locked: bool, phase: str
) -> None:
    put(kernel.root, PROXMOX.file("100"))
    put(kernel.root, LOCK, "")
    with open(f"{kernel.root}{LOCK}", encoding="utf-8") as lock:
        if is_locked:
            fcntl.flock(lock, fcntl.LOCK_EX)
        assert calls(kernel.root, "100", "pre-start") == (0, "") and claims(kernel) == ["100"]
    (command,) = started
    place = command.index("--")
    assert command[:place] == (
        "systemd-run",
        "--quiet",
        "--collect",
        "--slice=system.slice",
        f"--unit=vfio-isolation-vm-100-{os.getpid()}",
    )
    assert command[place + 1 :] == (sys.executable, "-I", "-S", RUNNER, "proxmox_hook", "100", phase)


def test_a_vm_that_ends_gives_its_claim_back(
    kernel: FakeKernel, started: List[Tuple[str, ...]], logged: List[str]
) -> None:
    before = kernel.snapshot()
    put(kernel.root, PROXMOX.file("100"))
    calls(kernel.root, "100", "pre-start")
    started.clear()
    assert calls(kernel.root, "100", "post-stop") == (0, "")
    assert kernel.snapshot() == before and claims(kernel) == [] and started == []
    assert logged[0].startswith("VM 100: pre-start: ") and logged[-1].startswith("VM 100: post-stop: ")


def test_a_vm_that_nobody_can_watch_starts_and_the_log_says_so(
    kernel: FakeKernel, logged: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(kernel.root, PROXMOX.file("100"))
    change = Host.change

    def refuse(self: Host, *argv: str) -> None:
        if argv[0] == "systemd-run":
            raise Refused(" ".join(argv[:-1]), argv[-1], "Failed to connect to bus")
        change(self, *argv)

    monkeypatch.setattr(Host, "change", refuse)
    assert calls(kernel.root, "100", "pre-start") == (0, "") and claims(kernel) == ["100"]
    assert logged[0].startswith(
        "VM 100: if it does not start, revert its claim, as the unit that watches it cannot be started: "
    )
    assert "Failed to connect to bus" in logged[0]


@pytest.mark.parametrize(
    ("given", "config", "code", "said"),
    [
        ({}, "cores: 1", 1, "VM 100: pre-start: VM 100 does not say where its vCPUs run; add affinity (qm set 100 "),
        ({}, "affinity: 4,99", 1, "VM 100: pre-start: "),
        ({"isolate_strategy": "fast"}, VM, 1, f"VM 100: pre-start: {PROXMOX.file('100')}: isolate_strategy is 'fast'"),
        ({"required": False}, "cores: 1", 0, ""),
        ({"required": False}, "affinity: 4,99", 0, ""),
    ],
)
def test_a_vm_whose_isolation_fails(
    kernel: FakeKernel,
    started: List[Tuple[str, ...]],
    logged: List[str],
    given: Dict[str, Any],
    config: str,
    code: int,
    said: str,
) -> None:
    put(kernel.root, PROXMOX.file("100"), json.dumps(given))
    kernel.part(Files).put(CONFIG, config)
    before = kernel.snapshot()
    found, complaint = calls(kernel.root, "100", "pre-start")
    assert found == code and complaint.count("\n") == code
    assert complaint.startswith(f"vfio-isolation: {said}" if said else "") and len(logged) == 1
    assert kernel.snapshot() == before and claims(kernel) == []
    assert len(started) == 1  # in case that even the rollback failed


def test_a_vm_that_is_not_configured_is_not_watched_whatever_others_have(
    kernel: FakeKernel, started: List[Tuple[str, ...]]
) -> None:
    kernel.part(Files).put(CONFIG.replace("100", "101"), VM)
    put(kernel.root, PROXMOX.file("100"))
    calls(kernel.root, "100", "pre-start")
    started.clear()
    assert calls(kernel.root, "101", "pre-start") == (0, "") and claims(kernel) == ["100"] and started == []


@pytest.mark.parametrize("is_configured", [True, False])
def test_half_an_installation_stops_only_vms_that_are_configured(
    tmp_path: Path, logged: List[str], monkeypatch: pytest.MonkeyPatch, is_configured: bool
) -> None:
    put(str(tmp_path), PROXMOX.lock, "")
    if is_configured:
        put(str(tmp_path), PROXMOX.default)
    monkeypatch.setitem(sys.modules, events.__name__, None)
    code, complaint = calls(str(tmp_path), "100", "pre-start")
    assert code == complaint.count("\n") == int(is_configured)
    assert calls(str(tmp_path), "100", "post-stop") == (0, "")
    assert len([line for line in logged if "import of" in line]) == 2


# What watches a VM


class Ends:
    """Waits for ends as the kernel does: of a QEMU that ends at once, and is perhaps started again."""

    def __init__(self, kernel: FakeKernel, next_process: int = 0) -> None:
        self.waited: List[int] = []
        self._kernel = kernel
        self._next = next_process

    def __call__(self, process: int) -> None:
        self.waited.append(process)
        self._kernel.part(Files).remove(PID_FILE)
        if self._next:
            runs(self._kernel, self._next)


def runs(kernel: FakeKernel, process: int) -> None:
    """The QEMU of VM 100 runs."""
    kernel.part(Files).put(PID_FILE, f"{process}")
    kernel.part(Files).put(f"/proc/{process}/cmdline", QEMU)


@pytest.fixture
def isolated(kernel: FakeKernel, started: List[Tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    """A host where VM 100 has a claim."""
    monkeypatch.setattr(proxmox_hook, "GRACE", 0.0)
    put(kernel.root, PROXMOX.file("100"))
    put(kernel.root, LOCK, "")
    calls(kernel.root, "100", "pre-start")
    started.clear()
    return kernel


def test_who_watches_gives_back_the_claim_of_a_vm_that_did_not_start(
    isolated: FakeKernel, started: List[Tuple[str, ...]], logged: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = Ends(isolated)
    monkeypatch.setattr(isolated, "wait_for_end", ends)
    assert calls(isolated.root, "100", "watch") == (0, "")
    assert claims(isolated) == [] and ends.waited == [] and started == []
    assert logged[-1].startswith("VM 100: watch: ") and logged[-1].endswith(" settings restored")


def test_who_watches_without_a_lock_waits_for_a_start_that_takes_its_time(
    isolated: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, slept = Ends(isolated), [0.0]
    monkeypatch.setattr(isolated, "wait_for_end", ends)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            runs(isolated, 77)

    monkeypatch.setattr(proxmox_hook.time, "sleep", sleep)
    assert calls(isolated.root, "100", "watch-unlocked") == (0, "")
    assert ends.waited == [77] and claims(isolated) == []


def test_who_watches_waits_for_the_end_of_qemu(
    isolated: FakeKernel, logged: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = Ends(isolated)
    monkeypatch.setattr(isolated, "wait_for_end", ends)
    runs(isolated, 77)
    assert calls(isolated.root, "100", "watch") == (0, "")
    assert claims(isolated) == [] and ends.waited == [77] and "VM 100: watch: " in logged[-1]


def test_who_watches_takes_nothing_from_a_vm_that_runs_again(
    isolated: FakeKernel, logged: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "wait_for_end", Ends(isolated, 78))
    runs(isolated, 77)
    before, said = isolated.snapshot(), list(logged)
    assert calls(isolated.root, "100", "watch") == (0, "")
    assert claims(isolated) == ["100"] and logged == said
    assert {**isolated.snapshot(), PID_FILE: "77"} == {**before, "/proc/78/cmdline": QEMU}


def test_proxmox_has_its_time_to_call_post_stop_itself(
    isolated: FakeKernel, logged: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "wait_for_end", Ends(isolated))
    monkeypatch.setattr(proxmox_hook, "GRACE", 7.0)
    slept: List[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        calls(isolated.root, "100", "post-stop")

    monkeypatch.setattr(proxmox_hook.time, "sleep", sleep)
    runs(isolated, 77)
    assert calls(isolated.root, "100", "watch") == (0, "") and slept == [7.0]
    assert "VM 100: post-stop: " in logged[-1] and claims(isolated) == []


def test_who_watches_takes_no_claim_that_others_made(isolated: FakeKernel) -> None:
    engine(isolated).revert()
    engine(isolated).apply("100", whole_job("6-7", "auto"))
    assert calls(isolated.root, "100", "watch") == (0, "") and claims(isolated) == ["100"]


def test_a_claim_that_cannot_be_given_back_is_a_line_in_the_log(isolated: FakeKernel, logged: List[str]) -> None:
    put(isolated.root, JOURNAL, '{"100"')
    del logged[:]
    assert calls(isolated.root, "100", "watch") == (0, "") and len(logged) == 1
    assert logged[0].startswith("VM 100: watch: ") and "journal" in logged[0]


def test_who_watches_looks_only_after_the_start_and_reverts_only_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxmox VE holds the lock of the VM from before pre-start until QEMU runs, and again while it calls post-stop."""
    put(str(tmp_path), LOCK, "")
    put(str(tmp_path), JOURNAL, '{"claims": {"100": {}}}')
    seen: List[str] = []

    def is_free() -> bool:
        with open(f"{tmp_path}{LOCK}", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def process(_vms: ProxmoxVms, _name: str) -> int:
        seen.append("looked")
        assert not is_free()
        return 77 if len(seen) == 1 else 0

    def waited(_vms: ProxmoxVms, number: int) -> None:
        assert is_free()
        seen.append(f"waited for {number}")

    def happens(name: str, phase: str, _root: str) -> int:
        assert not is_free()
        seen.append(f"{phase} {name}")
        return 0

    monkeypatch.setattr(proxmox_hook, "GRACE", 0.0)
    monkeypatch.setattr(proxmox_hook, "_happens", happens)
    monkeypatch.setattr(ProxmoxVms, "process", process)
    monkeypatch.setattr(ProxmoxVms, "wait_for_end", waited)
    codes: List[int] = []
    with open(f"{tmp_path}{LOCK}", encoding="utf-8") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        watching = threading.Thread(target=lambda: codes.append(proxmox_hook.main(["100", "watch"], str(tmp_path))))
        watching.start()
        watching.join(0.2)
        assert seen == []  # the start goes on
    watching.join(30)
    assert codes == [0] and seen == ["looked", "waited for 77", "looked", "watch 100"]
    put(str(tmp_path), JOURNAL, '{"claims": {"1001": {}}}')  # what has no claim any more waits for no event of others
    del seen[:]
    assert proxmox_hook.main(["100", "watch"], str(tmp_path)) == 0 and seen == ["looked", "waited for 77", "looked"]
