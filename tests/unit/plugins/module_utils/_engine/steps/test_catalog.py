# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The list of steps, as modules with their arguments: what it takes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.steps.catalog import read_items


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("drop_caches", "expected one module with its arguments"),
        ({"drop_caches": {}, "cpuset": {}}, "expected one module with its arguments"),
        ({"shell": {}}, "there is no step 'shell'"),
        ({"drop_caches": [1]}, "are not a mapping"),
        ({"drop_caches": {}, "when": "maybe"}, "expected true or false"),
    ],
)
def test_a_bad_item_is_named_by_its_position(item: Any, words: str) -> None:
    with pytest.raises(IsolationError, match="steps: item 2") as error:
        read_items([{"drop_caches": {}}, item])
    assert words in str(error.value)
