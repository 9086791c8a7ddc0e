# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever is wrong with our directory: each run does its work, or says in one sentence what is wrong and does nothing.

Those that write nothing work on a `/run` that is full or read-only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.own_files import TEMPORARY_SUFFIX
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import (
    CODE,
    IRQBALANCE_SENT,
    JOURNAL,
    LISTS_TO_WRITE_BACK,
    LOCK,
    RELOAD_DUE,
    RUN,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Outcome
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step, whole_job
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)

JOB, OTHER = whole_job("4-7", "slices"), whole_job("2", "slices")

CHANGING: Dict[str, Callable[[FakeKernel], Outcome]] = {
    "apply": lambda kernel: engine(kernel).apply("other", OTHER),
    "extend": lambda kernel: engine(kernel).extend("vm", step("irq_affinity", cpus="2")),
    "once": lambda kernel: engine(kernel).once(step("irq_affinity", cpus="2")),
    "revert": lambda kernel: engine(kernel).revert(),
    "restore": lambda kernel: engine(kernel).restore_prior({"irq.default:": "0-3"}),
}
READING: Dict[str, Callable[[FakeKernel], Outcome]] = {
    "apply": lambda kernel: engine(kernel).apply("other", OTHER, check=True),
    "extend": lambda kernel: engine(kernel).extend("vm", step("irq_affinity", cpus="2"), check=True),
    "once": lambda kernel: engine(kernel).once(step("irq_affinity", cpus="2"), check=True),
    "revert": lambda kernel: engine(kernel).revert(check=True),
    "restore": lambda kernel: engine(kernel).restore_prior({"irq.default:": "0-3"}, check=True),
    "audit": lambda kernel: engine(kernel).inspect()[1],
}
OBSTACLES: Dict[str, Callable[[str], object]] = {
    "a file": lambda path: Path(path).touch(0o600),
    "a directory": os.mkdir,
    "a link to itself": lambda path: os.symlink(path, path),
    "a link to nothing": lambda path: os.symlink(f"{path}/nothing", path),
    "a pipe": os.mkfifo,
    "no text": lambda path: Path(path).write_bytes(b"\xff\xfe\0"),
}
ONLY_CACHES = (CODE, IRQBALANCE_SENT)
OURS = (RUN, JOURNAL, JOURNAL + TEMPORARY_SUFFIX, LOCK, RELOAD_DUE, LISTS_TO_WRITE_BACK, *ONLY_CACHES)


def in_the_way(path: str, what: str) -> None:
    """Put something else in the place of a file or directory."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
    OBSTACLES[what](path)


def is_done_or_said(kernel: FakeKernel, call: Callable[[FakeKernel], Outcome], reads: bool = False) -> str:
    """The sentence, if it is one. What only reads writes nothing, and what is refused leaves all as it was."""
    before, sentence = kernel.snapshot(), ""
    kernel.log.clear()
    try:
        call(kernel)
    except IsolationError as error:
        sentence = str(error)
        assert "needs root" not in sentence and kernel.root not in sentence and "\n" not in sentence
    assert not reads or kernel.log == []
    assert not sentence or kernel.snapshot() == before or "could be restored" in sentence or "removal" in sentence
    return sentence


@pytest.mark.parametrize("claimed", [True, False])
@pytest.mark.parametrize("what", OBSTACLES)
@pytest.mark.parametrize("path", OURS)
def test_whatever_is_in_the_way_is_said_and_once_it_is_gone_all_is_restored(
    path: str, what: str, claimed: bool
) -> None:
    for call in (*CHANGING.values(), None):
        with booted() as kernel:
            before = kernel.snapshot()
            if claimed:
                engine(kernel).apply("vm", JOB)
            in_the_way(kernel.root + path, what)
            if call:
                sentence = is_done_or_said(kernel, call)
                assert not sentence or path not in ONLY_CACHES
            else:
                for reading in READING.values():
                    is_done_or_said(kernel, reading, reads=True)
            if path in (RUN, JOURNAL) or call in (CHANGING["once"], CHANGING["restore"]):
                continue  # what was known is lost, or nobody knew it
            if os.path.lexists(kernel.root + path):
                in_the_way(kernel.root + path, "a file")
                os.unlink(kernel.root + path)
            engine(kernel).revert()
            assert kernel.snapshot() == before


@contextlib.contextmanager
def unwritable(monkeypatch: pytest.MonkeyPatch, kernel: FakeKernel, code: int) -> Iterator[None]:
    """As if the file system of /run refused what makes a file, and if it is read-only, what removes one."""
    below = kernel.root + "/run"

    def failing(name: str, fails: Callable[..., bool]) -> None:
        original = getattr(os, name)

        def call(path: Any, *more: Any, **options: Any) -> Any:
            if str(path).startswith(below) and fails(path, *more):
                raise OSError(code, os.strerror(code), path)
            return original(path, *more, **options)

        patch.setattr(os, name, call)

    def writes(path: str, flags: int, *_mode: int) -> bool:
        adds = flags & os.O_CREAT and not os.path.lexists(path)
        return bool(adds or (code == errno.EROFS and flags & (os.O_WRONLY | os.O_RDWR)))

    with monkeypatch.context() as patch:
        failing("open", writes)
        failing("mkdir", lambda path, *_more: not os.path.lexists(path))
        if code == errno.EROFS:
            for name in ("unlink", "replace", "rmdir"):
                failing(name, lambda *_more: True)
            patch.setattr(os, "access", lambda *_more: False)
            read_only = os.statvfs_result((1, 1, 0, 0, 0, 0, 0, 0, os.ST_RDONLY, 255))
            patch.setattr(os, "statvfs", lambda _path: read_only)
        yield


@pytest.mark.parametrize("claimed", [True, False])
@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_a_run_that_reads_needs_nothing_and_one_that_writes_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, code: int, claimed: bool
) -> None:
    sentences: List[str] = []
    for name, call in CHANGING.items():
        with booted() as kernel:
            before = kernel.snapshot()
            if claimed:
                engine(kernel).apply("vm", JOB)
            with unwritable(monkeypatch, kernel, code):
                for reading in READING.values():
                    assert is_done_or_said(kernel, reading, reads=True) == ""
                sentence = is_done_or_said(kernel, call)
            if sentence:
                sentences.append(sentence)
                assert errno.errorcode[code] in sentence and RUN in sentence
                assert "Rolling back failed" not in sentence or claimed
            else:
                assert claimed and (name in ("once", "restore", "revert"))
            engine(kernel).revert()
            if name not in ("once", "restore"):
                assert kernel.snapshot() == before
    assert len(sentences) >= (2 if claimed else 5)


def test_a_journal_that_cannot_be_written_leaves_nothing_to_say_but_that(monkeypatch: pytest.MonkeyPatch) -> None:
    with booted() as kernel:
        engine(kernel).apply("vm", JOB)
        with unwritable(monkeypatch, kernel, errno.ENOSPC), pytest.raises(IsolationError) as error:
            engine(kernel).apply("other", OTHER)
        refusal = f"{JOURNAL}{TEMPORARY_SUFFIX} refused 'a new version of the file': No space left on device (ENOSPC)"
        assert str(error.value) == f"{refusal}. Everything is back as it was"
        assert list(engine(kernel).inspect()[0].claims) == ["vm"]
