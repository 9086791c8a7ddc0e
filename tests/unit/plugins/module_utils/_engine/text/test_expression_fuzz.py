# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What people write for CPUs, nodes and cgroups: anything, and it is read or refused in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.topology import CPU, NODE, SysfsTopology
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text import cgroup_path
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import (
    LIMIT,
    format_list,
    parse_list,
    parse_mask,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.expression import evaluate
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.nodes import parse_nodes
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import (
    changed_text,
    texts,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

TERMS = "0-3,^2,C5,N0-1,node:1,core:3,l3:0,l3:largest,type:performance,vm:win11:emulator,online,^isolated"
FILES = {
    f"{CPU}/online": "0-7",
    f"{CPU}/possible": "0-7",
    f"{NODE}/online": "0-1",
    f"{NODE}/node0/cpulist": "0-3",
    f"{NODE}/node1/cpulist": "4-7",
    **{f"{CPU}/cpu{cpu}/topology/thread_siblings_list": str(cpu) for cpu in range(8)},
}
expressions = st.lists(changed_text(TERMS) | changed_text("0-7:1/2") | texts() | values(), max_size=3) | values()


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> SysfsTopology:
    """Eight CPUs in two nodes."""
    return SysfsTopology(FakeHost(str(tmp_path_factory.mktemp("host")), FILES))


@given(expression=expressions)
def test_any_expression(topology: SysfsTopology, expression: Any) -> None:
    try:
        assert evaluate(expression, topology, "cpus") <= topology.possible()
    except IsolationError as error:
        assert str(error).startswith("cpus: ")


@given(st.lists(changed_text("N0-1,0") | texts() | values(), max_size=3) | values())
def test_any_nodes(nodes: Any) -> None:
    try:
        assert parse_nodes(nodes, frozenset({0, 1, 12}), "mems") <= {0, 1, 12}
    except IsolationError as error:
        assert str(error).startswith("mems: ")


@pytest.mark.parametrize("nodes", ["N1N2", "1N2", "N1 N2", "NN1", "N", "N٣", "n1", "N1-"])
def test_what_is_no_node_list(nodes: str) -> None:
    with pytest.raises(IsolationError, match=r"^mems: "):
        parse_nodes(nodes, frozenset({1, 2, 12}), "mems")


@given(changed_text("0-3,8,16-31:1/2") | texts())
def test_any_list(text: str) -> None:
    try:
        cpus = parse_list(text)
    except ValueError:
        return
    assert parse_list(format_list(cpus)) == cpus and max(cpus, default=0) < LIMIT


@given(changed_text("ff,00000000,ffffffff") | texts())
def test_any_mask(text: str) -> None:
    try:
        assert max(parse_mask(text), default=0) < LIMIT
    except ValueError:
        assert text.strip()


@pytest.mark.parametrize("text", ["-1", "0x1", "1_0", "٣", "+1", "f" * (LIMIT // 4 + 1), "1,,2", "x", "f f"])
def test_what_is_no_mask(text: str) -> None:
    with pytest.raises(ValueError, match="expected a CPU mask"):
        parse_mask(text)


def test_a_list_that_says_all_again_and_again_does_not_fill_the_memory() -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    tracemalloc.start()
    try:
        assert len(parse_list(",".join([f"0-{LIMIT - 1}"] * 8))) == LIMIT
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


@given(changed_text("/machine.slice/machine-qemu.slice") | texts())
def test_any_path_of_a_cgroup(text: str) -> None:
    try:
        path = cgroup_path.from_option("path", text)
    except IsolationError as error:
        assert str(error).startswith("path: ")
        return
    assert cgroup_path.is_valid(path) and "/../" not in f"{path}/" and "\0" not in path
