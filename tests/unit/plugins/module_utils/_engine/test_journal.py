# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The journal: what is kept, what is not trusted, and the lock."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.journal import VERSION, JournalFile
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Claim, Journal, Step
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import (
    JOURNAL,
    LOCK,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step, whole_job
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)

ROOT = Path(__file__).resolve().parents[5]
JOB = whole_job("4-7", "slices")


def change(kernel: FakeKernel, edit: Callable[[Any], None]) -> None:
    """Edit the journal."""
    with open(kernel.root + JOURNAL, encoding="utf-8") as stream:
        content = json.load(stream)
    edit(content)
    with open(kernel.root + JOURNAL, "w", encoding="utf-8") as stream:
        json.dump(content, stream)


def edited(kernel: FakeKernel, edit: Callable[[Any], None]) -> str:
    """The sentence about a journal that somebody edited; nothing may be written for it."""
    engine(kernel).apply("vm", JOB)
    change(kernel, edit)
    return refused(kernel)


def refused(kernel: FakeKernel) -> str:
    before = kernel.snapshot()
    kernel.log.clear()
    calls = [lambda: engine(kernel).revert(), lambda: engine(kernel).apply("vm", JOB), lambda: engine(kernel).inspect()]
    sentences = set()
    for call in calls:
        with pytest.raises(IsolationError) as error:
            call()
        sentences.add(str(error.value))
    assert kernel.log == [] and kernel.snapshot() == before
    (sentence,) = sentences
    assert sentence.startswith(f"{JOURNAL} cannot be trusted: ") and "Nothing was changed." in sentence
    return sentence


def test_what_is_saved_is_what_is_loaded() -> None:
    with booted() as kernel:
        store = Engine(kernel).journal_file
        claim = Claim((Step("compact_memory", {"nodes": ["0"]}),), ("irq.affinity:1",))
        journal = Journal({"irq.affinity:1": "0-7", "task.affinity:12:34": "3,5"}, {"vm": claim}, "4-7")
        with store.locked(1):
            store.save(journal)
            assert store.load() == journal
            assert os.stat(kernel.root + JOURNAL).st_mode & 0o777 == 0o600
            store.save(Journal({}, {}))
            assert not os.path.exists(kernel.root + JOURNAL)
            assert store.load() == Journal({}, {})


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'"x"', b"{}", b"\xff\xfe", b"[" * 100000, b'{"format": 1}']
)
def test_a_corrupt_journal_is_refused(text: bytes) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", JOB)
        with open(kernel.root + JOURNAL, "wb") as stream:
            stream.write(text)
        refused(kernel)


def test_a_journal_that_others_may_write_is_refused() -> None:
    for mode in (0o620, 0o602):
        with booted() as kernel:
            engine(kernel).apply("vm", JOB)
            os.chmod(kernel.root + JOURNAL, mode)
            assert "users other than root may write it" in refused(kernel)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_journal_of_another_owner_is_refused() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", JOB)
        os.chown(kernel.root + JOURNAL, 12345, 12345)
        assert "users other than root may write it" in refused(kernel)


@pytest.mark.parametrize(
    "address",
    [
        "cgroup.cpus:/../../etc",
        "cgroup.cpus:/a/../b",
        *(f"cgroup.cpus:{name}" for name in ("/a" * 3000, "/" + "b" * 256)),
        "systemd.AllowedCPUs:" + "u" * 249 + ".service",
        "cgroup.cpus:relative",
        "cgroup.cpus:/a\n",
        "cgroup.cpus://x",
        "irq.affinity:../1",
        "cpufreq.governor:policy0/../x",
        "cpufreq.governor:x",
        "nothing:1",
        "task.affinity:1",
        "systemd.AllowedCPUs:../x.slice",
        "systemd.AllowedCPUs:x",
        "irq.default:1",
    ],
)
def test_a_journal_that_points_elsewhere_is_refused(address: str) -> None:
    with booted() as kernel:
        assert "is not the address of a setting" in edited(
            kernel, lambda content: content["baseline"].update({address: "0"})
        )


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ("irq.affinity:0", "x"),
        ("irq.affinity:0", 3),
        ("irq.affinity:0", None),
        ("cgroup.partition:/x", "evil"),
        ("cgroup.exists:/x", "maybe"),
        ("cpufreq.governor:policy0", "a b"),
        ("task.cgroup:1:2", "/../x"),
    ],
)
def test_a_journal_with_a_value_that_does_not_fit_is_refused(address: str, value: Any) -> None:
    with booted() as kernel:
        assert "cannot hold" in edited(kernel, lambda content: content["baseline"].update({address: value}))


def test_a_journal_with_an_unknown_step_is_refused() -> None:
    with booted() as kernel:
        sentence = edited(kernel, lambda content: content["claims"]["vm"]["steps"][0].update(name="rm"))
        assert "claim 'vm': there is no step 'rm'" in sentence


def test_a_journal_of_another_format_is_refused() -> None:
    with booted() as kernel:
        assert "its format is 'x'" in edited(kernel, lambda content: content.update(format="x"))


@pytest.mark.parametrize("version", ["2.7.1", None, 7])
def test_a_journal_that_this_version_cannot_read_names_the_one_that_can(version: Any) -> None:
    """Removing it is no advice: settings are to be restored from it."""
    with booted() as kernel:
        engine(kernel).apply("vm", JOB)
        change(kernel, lambda content: content.update(format=99, reader=98, version=version))
        before, log = kernel.snapshot(), list(kernel.log)
        for call in (lambda: engine(kernel).revert(), lambda: engine(kernel).apply("other", JOB)):
            with pytest.raises(IsolationError) as error:
                call()
            by = "version 2.7.1 of vfio.isolation" if version == "2.7.1" else "a newer version"
            assert f"was written by {by}, in format 99" in str(error.value) and "Use that version" in str(error.value)
            assert "remove" not in str(error.value)
        assert kernel.snapshot() == before and kernel.log == log


def test_what_a_later_version_has_added_is_kept() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", JOB)

        def later(content: Any) -> None:
            content.update(format=3, weather={"is": "fine"})
            content["claims"]["vm"].update(mood=["good"])

        change(kernel, later)
        engine(kernel).apply("other", [step("cpu_governor", cpus="0", governor="performance")])
        with open(kernel.root + JOURNAL, encoding="utf-8") as stream:
            content = json.load(stream)
        assert content["weather"] == {"is": "fine"} and content["claims"]["vm"]["mood"] == ["good"]
        assert "mood" not in content["claims"]["other"]
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_a_journal_of_the_first_format_is_read_and_leads_back() -> None:
    """It has no word of what was granted: its claims are evaluated on the host of today."""
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", JOB)

        def first(content: Any) -> None:
            for field in ("reader", "version"):
                del content[field]
            content["format"] = 1
            for one in content["claims"]["vm"]["steps"]:
                del one["granted"]

        change(kernel, first)
        assert engine(kernel).inspect()[1].changes == []
        assert not engine(kernel).apply("vm", JOB).changed
        engine(kernel).apply("other", [step("cpu_governor", cpus="0", governor="performance")])
        assert engine(kernel).inspect()[0].claims["vm"].granted[1]["cpus"] == "4-7"
        engine(kernel).revert()
        assert kernel.snapshot() == before


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        *((f"claims.vm.{field}", wrong) for field in ("steps", "holds") for wrong in ({}, "", 7, None, [7])),
        *((f"claims.vm.steps.0.{field}", wrong) for field in ("name", "arguments") for wrong in ([], 7, None)),
        *((field, wrong) for field in ("claims", "baseline", "refused") for wrong in ([], 7, None, {"x": "y"})),
        *(("kept_off", wrong) for wrong in (7, None, [], "²", "٣", "4-")),
        *((field, wrong) for field in ("format", "reader", "boot_id") for wrong in ([], None, {}, -1)),
        ("claims.vm.maker", 7),
        ("refused", {"irq.affinity:1": 7}),
        ("claims.vm.holds", ["irq.affinity:٣"]),
    ],
)
def test_each_field_is_checked(place: str, wrong: Any) -> None:
    def spoil(content: Any) -> None:
        *above, field = place.split(".")
        for name in above:
            content = content[int(name) if name.isdigit() else name]
        content[field] = wrong

    with booted() as kernel:
        edited(kernel, spoil)


@pytest.mark.parametrize("name", ["", " ", "x" * 256, "a\nb"])
def test_a_name_that_no_claim_can_have_is_refused(name: str) -> None:
    with booted() as kernel:
        edited(kernel, lambda content: content["claims"].update({name: content["claims"]["vm"]}))


@pytest.mark.parametrize("timeout", [float("nan"), -1, -0.5])
def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    with booted() as kernel:
        for call in (Engine(kernel, timeout).inspect, Engine(kernel, timeout).revert):
            with pytest.raises(IsolationError, match=f"^lock_timeout: {timeout!r} is not a number of seconds"):
                call()


@pytest.mark.parametrize(
    "granted",
    [7, [], {"cpus": 7}, {"cpus": "x"}, {"cpus": "²"}, {"policies": []}, {"irqs": "x"}, {"policies": "policy0 "}],
)
def test_what_was_granted_is_checked(granted: Any) -> None:
    with booted() as kernel:
        edited(kernel, lambda content: content["claims"]["vm"]["steps"][1].update(granted=granted))


def test_the_version_that_a_journal_names_is_the_collection_s() -> None:
    galaxy = (ROOT / "galaxy.yml").read_text(encoding="utf-8")
    assert f"\nversion: {VERSION}\n" in galaxy


def test_a_journal_of_another_boot_is_discarded_with_a_word() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", JOB)
        kernel.files["/proc/sys/kernel/random/boot_id"] = "another"
        kernel.log.clear()
        journal, drift = engine(kernel).inspect()
        assert journal == Journal({}, {}) and "from another boot" in drift.warnings[0]
        outcome = engine(kernel).revert()
        assert not outcome.changed and "from another boot" in outcome.warnings[0]
        assert kernel.log == []


def test_the_second_run_waits_and_then_says_who_holds_what() -> None:
    with booted() as kernel:
        with Engine(kernel).journal_file.locked(1), pytest.raises(IsolationError) as error:
            engine(kernel).apply("vm", JOB)
        assert f"another run has held {LOCK} for more than 0.1 s" in str(error.value)
        assert "raise lock_timeout" in str(error.value)
        assert kernel.log == []
        engine(kernel).apply("vm", JOB)


def test_of_two_runs_at_the_same_moment_the_second_waits_and_then_proceeds(monkeypatch: pytest.MonkeyPatch) -> None:
    flock, has_to_wait = fcntl.flock, threading.Event()

    def lock(descriptor: int, operation: int) -> None:
        try:
            flock(descriptor, operation)
        except BlockingIOError:
            has_to_wait.set()
            raise

    monkeypatch.setattr(fcntl, "flock", lock)
    with booted() as kernel:
        order = []

        def first(store: JournalFile, held: threading.Event) -> None:
            with store.locked(1):
                held.set()
                has_to_wait.wait(30)
                order.append("first")

        held = threading.Event()
        other = threading.Thread(target=first, args=(Engine(kernel).journal_file, held))
        other.start()
        assert held.wait(30)
        with Engine(kernel).journal_file.locked(5):
            order.append("second")
        other.join()
        assert has_to_wait.is_set()
        assert order == ["first", "second"]


def test_a_lock_that_is_no_file_is_said() -> None:
    with booted() as kernel:
        os.makedirs(kernel.root + LOCK)
        with pytest.raises(
            IsolationError, match=f"{LOCK} cannot be locked: Is a directory .*remove what is in the way"
        ):
            engine(kernel).apply("vm", JOB)
        assert kernel.log == []


def test_check_mode_and_an_audit_leave_nothing_on_a_host_without_claims() -> None:
    with booted() as kernel:
        before = os.listdir(kernel.root)
        engine(kernel).apply("vm", JOB, check=True)
        engine(kernel).extend("vm", JOB[1], check=True)
        engine(kernel).once(JOB[1], check=True)
        engine(kernel).revert(check=True)
        engine(kernel).restore_prior({"irq.affinity:1": "0-7"}, check=True)
        engine(kernel).inspect()
        assert os.listdir(kernel.root) == before and kernel.log == []


def test_check_mode_waits_for_a_run_that_writes() -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", JOB)
        with Engine(kernel).journal_file.locked(1), pytest.raises(IsolationError, match="another run has held"):
            engine(kernel).apply("other", JOB, check=True)
