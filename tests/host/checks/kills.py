# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Killed at any point, and refused at any point: nothing is lost."""

from __future__ import annotations

from functools import partial

from .ground import (
    assert_isolated,
    engine,
    job,
    killed_after,
    needs_partitions,
    process,
    refused,
    revert,
    snapshot,
    unchanged,
)


def _killed_at_every_write(strategy: str, every: int) -> None:
    process("5")
    process("1,2")
    before = snapshot()
    steps = job(strategy=strategy)
    writes = 1
    while killed_after(writes, lambda wrote: engine(wrote).apply("host", steps)):
        revert()
        unchanged(before, f"after a kill at write {writes} and a revert")
        assert killed_after(writes, lambda wrote: engine(wrote).apply("host", steps))
        engine().apply("host", steps)
        assert_isolated(strategy=strategy)
        assert not engine().inspect()[1].changes
        revert()
        unchanged(before, f"after a kill at write {writes}, a second run and a revert")
        writes += every
    assert writes > 20, f"the job had {writes - 1} writes only"
    assert_isolated(strategy=strategy)
    revert()
    unchanged(before)
    print(f"{strategy}: killed after writes 1 to {writes - every}, every {every}")


def check_killed_at_every_write() -> None:
    """SIGKILL after each single write of the full job: revert gives the baseline back, a second run completes."""
    needs_partitions()
    _killed_at_every_write("partition", 1)


def check_killed_under_slices() -> None:
    """The same under slices, after every ninth of its many writes."""
    _killed_at_every_write("slices", 9)


def check_killed_while_reverting() -> None:
    """SIGKILL after each single write of a revert: the next revert ends at the baseline."""
    process("5")
    before = snapshot()
    writes = 1
    while True:
        engine().apply("host", job())
        if not killed_after(writes, lambda wrote: engine(wrote).revert()):
            break
        revert()
        unchanged(before, f"after a revert was killed at write {writes}")
        writes += 3
    unchanged(before)
    assert writes > 10


def check_refused_at_every_write() -> None:
    """A refusal in the middle of the job: rolled back, with the step and the file in the sentence."""
    from module_utils._engine.errors import Refused
    from module_utils._engine.kernel.host import Host
    from module_utils._engine.transaction.engine import Engine

    class Refusing(Host):
        left = 0

        def write(self, path: str, value: str) -> None:
            self.left -= 1
            if self.left == 0:
                raise Refused(path, value, "refused by the test")
            super().write(path, value)

    before = snapshot()
    for after in (2, 3, 5):
        host = Refusing()
        host.left = after
        sentence = refused(partial(Engine(host).apply, "host", job()))
        assert "refused by the test" in sentence and "step" in sentence and "/sys/" in sentence, sentence
        assert "Everything is back as it was" in sentence
        unchanged(before, f"after a refusal of write {after}")
