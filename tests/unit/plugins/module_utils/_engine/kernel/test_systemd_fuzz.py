# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drop-ins that somebody has written: others' may hold anything, ours hold a list or it is said which does not."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.systemd import (
    FINAL_DROP_IN,
    Systemd,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.unit_files import (
    LOAD_PATH,
    RUNTIME,
    TRANSIENT,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    STRATEGIES,
    engine,
    whole_job,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.files import Files
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import changed_text, texts
from hypothesis import given
from hypothesis import strategies as st

OURS = (f"{RUNTIME}/own.slice.d/50-AllowedCPUs.conf", f"{RUNTIME}/own.slice.d/{FINAL_DROP_IN}-AllowedCPUs.conf")
DROP_IN = "[Slice]\nAllowedCPUs=\nAllowedCPUs=0-3 5\n"


def drop_ins() -> st.SearchStrategy[str]:
    """Almost right, or noise."""
    return changed_text(DROP_IN) | texts() | texts().map(lambda value: f"[Slice]\nAllowedCPUs={value}\n")


@given(st.sampled_from([*OURS, f"{TRANSIENT}/own.slice.d/50-AllowedCPUs.conf"]), drop_ins())
def test_any_drop_in_of_ours(tmp_path_factory: pytest.TempPathFactory, path: str, text: str) -> None:
    host = FakeHost(str(tmp_path_factory.mktemp("host")), {})
    host.put(path, text.encode("utf-8", "replace").decode())
    systemd = Systemd(host)
    for read in (systemd.runtime_value, systemd.override_value):
        try:
            read("own.slice", "AllowedCPUs")
        except IsolationError as error:
            assert str(error).startswith(f"{path}: AllowedCPUs=")
    assert not systemd.overruled("own.slice", "AllowedCPUs")


@pytest.mark.parametrize("value", ["²", "x", "0-", "4-2", "0-99999999999", "%i"])
def test_a_malformed_list_is_named_with_its_file(value: str) -> None:
    for path in OURS:
        with booted() as kernel:
            kernel.part(Files).put(path, f"[Slice]\nAllowedCPUs={value}")
            before = kernel.snapshot()
            with pytest.raises(IsolationError, match=f"own.slice.d/.*AllowedCPUs='{value}'.*systemctl daemon-reload"):
                engine(kernel).apply("vm", whole_job("4-7", "slices"))
            assert kernel.snapshot() == before and kernel.log == []


@given(st.sampled_from(STRATEGIES), st.sampled_from(OURS), drop_ins())
def test_with_any_drop_in_of_ours_a_claim_is_made_or_refused(strategy: str, path: str, text: str) -> None:
    with booted() as kernel:
        kernel.part(Files).put(path, text)
        before = kernel.snapshot()
        try:
            engine(kernel).apply("vm", whole_job("4-7", strategy), check=True)
        except IsolationError as error:
            assert str(error).startswith(f"{path}: AllowedCPUs=")
            with pytest.raises(IsolationError):
                engine(kernel).apply("vm", whole_job("4-7", strategy))
        assert kernel.snapshot() == before and kernel.log == []


@given(
    st.sampled_from(STRATEGIES),
    st.sampled_from([f"{place}/own.slice.d/{name}.conf" for place in LOAD_PATH for name in ("10-x", "90-x")]),
    drop_ins().map(lambda text: text.replace("AllowedCPUs", "AllowedMemoryNodes ")),
)
def test_another_s_drop_in_may_hold_anything(strategy: str, path: str, text: str) -> None:
    with booted() as kernel:
        kernel.part(Files).put(path, text)
        before = kernel.snapshot()
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        engine(kernel).revert()
        assert kernel.snapshot() == before
