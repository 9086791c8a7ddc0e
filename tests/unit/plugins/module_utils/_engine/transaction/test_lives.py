# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Random lives of hosts: whatever happens, in the end nothing is left of any claim. `make soak` runs more of them."""

from __future__ import annotations

import os
from typing import Any

import pytest
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.lives.life import live, lives, script
from hypothesis import Phase, given, settings

LIVES = int(os.environ.get("LIVES", "150"))


@settings(max_examples=LIVES, phases=[Phase.generate])
@given(lives())
def test_whatever_happens_each_claim_has_what_it_wants_and_nothing_is_left_in_the_end(life: Any) -> None:
    try:
        live(*life)
    except Exception:
        pytest.fail(script(life))
