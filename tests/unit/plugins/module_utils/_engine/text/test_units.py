# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names as parts of units' names."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.units import escape


@pytest.mark.parametrize(
    ("claim", "instance"),  # as systemd-escape has it
    [
        ("host", "host"),
        ("big vm", "big\\x20vm"),
        ("a-b", "a\\x2db"),
        ("a/b", "a-b"),
        (".x.y", "\\x2ex.y"),
        ("é", "\\xc3\\xa9"),
        ("a:b_C9", "a:b_C9"),
        ("%n", "\\x25n"),
        ("../x", "\\x2e.-x"),
    ],
)
def test_names_of_units(claim: str, instance: str) -> None:
    assert escape(claim) == instance
