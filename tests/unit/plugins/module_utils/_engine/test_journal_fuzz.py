# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A journal in which anything may stand: it is refused and nothing is done, or it is good for a way back."""

from __future__ import annotations

import functools
import json
import os
from typing import Any, Callable, List

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import JOURNAL, RUN
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step, whole_job
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import (
    changed_json,
    changed_text,
)
from hypothesis import given
from hypothesis import strategies as st

JOBS = {
    "partition": [
        *whole_job("4-7", "partition"),
        step("move_tasks", source="/user.slice/user-1000.slice", target="/own.slice"),
    ],
    "slices": [*whole_job("4-7", "slices", "3"), step("irq_affinity", cpus=[5], irqs=[0, 1], names=["*"])],
}


@functools.lru_cache(maxsize=None)
def _journal(strategy: str) -> str:
    with booted() as kernel:
        engine(kernel).apply("vm", JOBS[strategy])
        with open(kernel.root + JOURNAL, encoding="utf-8") as stream:
            return stream.read()


def journals() -> st.SearchStrategy[Any]:
    """A strategy, with what the journal holds then."""
    return st.sampled_from(sorted(JOBS))


def put(kernel: FakeKernel, text: bytes) -> None:
    """Replace the journal."""
    os.makedirs(kernel.root + RUN, 0o700, exist_ok=True)
    with open(kernel.root + JOURNAL, "wb") as stream:
        stream.write(text)


def does_all_or_nothing(strategy: str, text: bytes) -> None:
    """With this journal, everything that an engine can do is done or refused in a sentence, in each order."""
    with booted() as kernel:
        engine(kernel).apply("vm", JOBS[strategy])
        put(kernel, text)
        before = kernel.snapshot()
        kernel.log.clear()
        runs: List[Callable[[], Any]] = [
            lambda: engine(kernel).inspect(),
            lambda: engine(kernel).apply("other", whole_job("2-3", strategy), check=True),
            lambda: engine(kernel).revert(check=True),
            lambda: engine(kernel).apply("other", whole_job("2-3", strategy)),
            lambda: engine(kernel).extend("vm", step("compact_memory")),
            lambda: engine(kernel).revert(),
        ]
        for run in runs:
            try:
                run()
            except IsolationError as error:
                if str(error).startswith(JOURNAL):
                    assert kernel.log == [] and kernel.snapshot() == before


@given(journals().flatmap(lambda name: st.tuples(st.just(name), changed_json(json.loads(_journal(name))))))
def test_any_value_in_any_place(found: Any) -> None:
    strategy, content = found
    does_all_or_nothing(strategy, json.dumps(content).encode())


@given(journals().flatmap(lambda name: st.tuples(st.just(name), changed_text(_journal(name)))))
def test_any_text_in_any_place(found: Any) -> None:
    strategy, text = found
    does_all_or_nothing(strategy, text.encode("utf-8", "surrogatepass"))


@given(journals(), st.binary(max_size=40))
def test_any_bytes(strategy: str, text: bytes) -> None:
    does_all_or_nothing(strategy, text)
