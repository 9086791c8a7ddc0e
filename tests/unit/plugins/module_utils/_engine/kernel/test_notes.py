# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The notes of one run for the next: what is not ours, or not what was written, is refused and nothing is done."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any, Callable

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.irqbalance import Irqbalance
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import (
    IRQBALANCE_SENT,
    LISTS_TO_WRITE_BACK,
    RELOAD_DUE,
    RUN,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, whole_job
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cgroups import Cgroups
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    os_error,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import (
    changed_json,
    changed_text,
    texts,
)
from hypothesis import given
from hypothesis import strategies as st

JOB = whole_job("4-7", "slices")
LISTS = [["/"], [["/system.slice", "cpuset.cpus", "0-3"], ["/user.slice", "cpuset.cpus", "0-3"]]]
UNITS = "system.slice a.service"


def put(kernel: FakeKernel, path: str, text: str) -> None:
    """A note, as a run of ours leaves it."""
    os.makedirs(kernel.root + RUN, 0o700, exist_ok=True)
    with open(os.open(kernel.root + path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as stream:
        stream.write(text.encode("utf-8", "surrogatepass"))


def refused(kernel: FakeKernel, path: str) -> str:
    """The sentence of every run that would write; and none does."""
    before = kernel.snapshot()
    kernel.log.clear()
    runs: list[Callable[[], Any]] = [
        lambda: engine(kernel).apply("other", JOB),
        lambda: engine(kernel).revert(),
        lambda: engine(kernel).restore_prior({"irq.default:": "0-3"}),
    ]
    sentences = set()
    for run in runs:
        with pytest.raises(IsolationError) as error:
            run()
        sentences.add(str(error.value))
    assert kernel.log == [] and kernel.snapshot() == before and os.path.exists(kernel.root + path)
    (sentence,) = sentences
    assert sentence.startswith(path)
    return sentence


@pytest.mark.parametrize(("path", "text"), [(LISTS_TO_WRITE_BACK, json.dumps(LISTS)), (RELOAD_DUE, UNITS)])
@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_note_that_others_may_write_is_refused(path: str, text: str, mode: int) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", JOB)
        put(kernel, path, text)
        os.chmod(kernel.root + path, mode)
        assert "users other than root may write it" in refused(kernel, path)


def test_notes_of_our_own_are_carried_out() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", JOB)
        put(kernel, LISTS_TO_WRITE_BACK, json.dumps(LISTS))
        put(kernel, RELOAD_DUE, UNITS)
        engine(kernel).revert()
        assert f"{CGROUP}/user.slice/cpuset.cpus = 0-3" in kernel.log and kernel.snapshot() == before
        assert not os.path.exists(kernel.root + LISTS_TO_WRITE_BACK) and not os.path.exists(kernel.root + RELOAD_DUE)


@pytest.mark.parametrize("refused_", ["system.slice/cpuset.cpus = 0-3", "cgroup.subtree_control = +cpuset"])
def test_what_is_refused_stays_in_the_note_and_keeps_no_run_from_its_work(refused_: str) -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", JOB)
        put(kernel, LISTS_TO_WRITE_BACK, json.dumps(LISTS))
        kernel.refuse = lambda what: os_error(errno.EINVAL) if what.endswith(refused_) else None
        kernel.log.clear()
        for run in (lambda: engine(kernel).apply("vm", JOB), lambda: engine(kernel).extend("vm", JOB[1])):
            (warning,) = run().warnings
            assert refused_.split(" = ")[0] in warning and "refused" in warning and "(EINVAL)" in warning
        assert f"{CGROUP}/user.slice/cpuset.cpus = 0-3" in kernel.log
        with open(kernel.root + LISTS_TO_WRITE_BACK, encoding="utf-8") as stream:
            note = json.load(stream)
        assert note in ([[], LISTS[1][:1]], [["/"], []])
        kernel.refuse = None
        assert engine(kernel).revert().warnings == [] and kernel.snapshot() == before
        assert not os.path.exists(kernel.root + LISTS_TO_WRITE_BACK)


def test_what_is_gone_while_it_is_written_back_is_owed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", JOB)
        put(kernel, LISTS_TO_WRITE_BACK, json.dumps([[], [["/own.slice", "cpuset.cpus", "0-3"], *LISTS[1]]]))
        write = kernel.write

        def goes_meanwhile(path: str, value: str, keep_open: bool = False) -> None:
            if "own.slice" in path:
                kernel.part(Cgroups).remove("/own.slice")
            write(path, value, keep_open)

        monkeypatch.setattr(kernel, "write", goes_meanwhile)
        kernel.log.clear()
        assert engine(kernel).apply("vm", JOB).warnings == []
        assert f"{CGROUP}/user.slice/cpuset.cpus = 0-3" in kernel.log
        assert not os.path.exists(kernel.root + LISTS_TO_WRITE_BACK)


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        (LISTS_TO_WRITE_BACK, "", "Expecting value"),
        (LISTS_TO_WRITE_BACK, "[[]]", "not enough values"),
        (LISTS_TO_WRITE_BACK, '[["/../../etc"], []]', "'/../../etc' is not the path of a cgroup"),
        (LISTS_TO_WRITE_BACK, "[[1], []]", "1 is not the path of a cgroup"),
        (LISTS_TO_WRITE_BACK, '[[], [["/../x", "cpuset.cpus", "1"]]]', "'/../x' is not the path of a cgroup"),
        (LISTS_TO_WRITE_BACK, '[[], [["/x", "cgroup.procs", "1"]]]', "/x has no list 'cgroup.procs' to write"),
        (LISTS_TO_WRITE_BACK, '[[], [["/x", "cpuset.cpus", "x"]]]', "expected a number"),
        (LISTS_TO_WRITE_BACK, '[[], [["/x", "cpuset.cpus", 1]]]', "1 is not a list"),
        (LISTS_TO_WRITE_BACK, "[" * 100000, "recursion"),
        (RELOAD_DUE, "--now", "'--now' is not the name of a unit"),
        (RELOAD_DUE, "system.slice ../../x.slice", "'../../x.slice' is not the name of a unit"),
        (RELOAD_DUE, "a\0b.slice", "is not the name of a unit"),
    ],
)
def test_a_note_that_was_not_written_by_us_is_refused(path: str, text: str, words: str) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", JOB)
        put(kernel, path, text)
        sentence = refused(kernel, path)
        assert words in sentence and "Nothing was changed." in sentence


def run_or_refused(path: str, text: str) -> None:
    """With this note, a run does its work, or says that the note is not to be trusted and does nothing."""
    with booted() as kernel:
        put(kernel, path, text)
        before = kernel.snapshot()
        try:
            engine(kernel).apply("vm", JOB)
        except IsolationError as error:
            # What the kernel answers to a list that might be one is up to the kernel.
            assert kernel.snapshot() == before or "refused" in str(error)


@given(changed_json(LISTS).map(json.dumps))
def test_any_note_of_lists(text: str) -> None:
    run_or_refused(LISTS_TO_WRITE_BACK, text)


@given(changed_text(json.dumps(LISTS)))
def test_any_text_in_the_place_of_a_note_of_lists(text: str) -> None:
    run_or_refused(LISTS_TO_WRITE_BACK, text)


@given(st.lists(st.sampled_from(["system.slice", "-a.slice", "--", ".."]) | texts(), max_size=4).map(" ".join))
def test_any_note_of_units(text: str) -> None:
    run_or_refused(RELOAD_DUE, text)


SENT = st.tuples(st.sampled_from(["5:777", "6:1"]) | texts(), st.sampled_from(["4-7", "-", "9" * 30]) | texts())


@given(st.builds(lambda words, rest: " ".join(words) + rest, SENT, st.sampled_from([" 1.0", " 1e999"]) | texts()))
def test_any_note_of_what_irqbalance_was_sent(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """It only saves a question: what it cannot say, irqbalance is asked for."""
    stat_of_it = "5 (irqbalance) " + " ".join(["S"] + ["0"] * 18 + ["777"] + ["0"] * 30)
    host = FakeHost(
        str(tmp_path_factory.mktemp("host")), {"/proc/5/stat": stat_of_it, "/run/irqbalance/irqbalance5.sock": ""}
    )
    os.makedirs(host.path(RUN), stat.S_IRWXU)
    with open(host.path(IRQBALANCE_SENT), "wb") as stream:
        stream.write(text.encode("utf-8", "surrogatepass"))
    assert Irqbalance(host).read("5:777") in ("?", "", "4-7") or "777" in text
