# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A claim as a systemd unit starts and stops it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries.persistent_claim import carry_out
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost


def test_a_unit_that_stops_without_its_file_leaves_the_claim(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {})
    assert carry_out("stop", "/no/file", host).warnings
    with pytest.raises(IsolationError, match="there is no file /no/file"):
        carry_out("start", "/no/file", host)
    host.put("/x/bad", '{"claim": "x"}')
    with pytest.raises(IsolationError, match="/x/bad does not contain a claim"):
        carry_out("stop", "/x/bad", host)
    assert not host.log
