# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One step alone on the model kernel: what it plans, and the sentence for what it cannot."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    STOCK,
    Baseline,
)


def planned(name: str, baseline: Baseline = STOCK, **given: Any) -> dict:
    """What a step alone would change, by address."""
    with booted(baseline) as kernel:
        outcome = engine(kernel).once(step(name, **given), check=True)
        return {change.address: change.after for change in outcome.changes}


def refused(name: str, baseline: Baseline = STOCK, **given: Any) -> str:
    """The sentence; and nothing was written."""
    with booted(baseline) as kernel:
        before = kernel.snapshot()
        with pytest.raises(IsolationError) as error:
            engine(kernel).once(step(name, **given))
        assert kernel.snapshot() == before
        return str(error.value)
