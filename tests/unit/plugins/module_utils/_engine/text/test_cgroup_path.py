# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths of cgroups: what is above, below, and none at all."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cgroup_path import (
    from_option,
    is_valid,
    is_within,
    lineage,
    normalized,
    of_slice,
    parent_of,
)
from hypothesis import given
from hypothesis import strategies as st

names = st.text(st.characters(exclude_characters="/\n\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
paths = st.lists(names, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))


@given(paths)
def test_a_lineage_leads_down_to_the_path_each_one_within_the_one_before(path: str) -> None:
    line = lineage(path)
    assert line[-1] == path and len(line) == path.count("/")
    assert [parent_of(one) for one in line] == ["/", *line[:-1]]
    assert all(is_within(path, one) for one in ["/", *line]) and all(map(is_valid, line))


@given(paths, names)
def test_a_cgroup_is_within_itself_and_its_parent_and_not_within_its_child_or_neighbour(path: str, name: str) -> None:
    child = f"{path}/{name}"
    assert is_within(child, path) and is_within(path, path) and is_within(path, "/")
    assert not is_within(path, child) and not is_within("/", path)
    assert not is_within(f"{path}x", path) and not is_within(path, f"{path}x")


@given(paths, st.sampled_from(["{}", "{}/", "//{}", "{}//"]))
def test_slashes_around_a_path_do_not_matter(path: str, written: str) -> None:
    assert normalized(written.format(path.strip("/"))) == path.rstrip("/")
    assert from_option("path", written.format(path.strip("/"))) == path


def test_the_root_is_its_own_parent() -> None:
    assert parent_of("/") == "/" == normalized("") == normalized("///") and is_within("/", "/") and is_valid("/")


@pytest.mark.parametrize("path", ["", "a", "//", "/a/", "/a//b", "/.", "/..", "/a/../b", "/a\nb", "/a\0b", "/\ud800"])
def test_what_leaves_the_hierarchy_or_can_be_no_file_is_not_valid(path: str) -> None:
    assert not is_valid(path)


@pytest.mark.parametrize("value", ["..", "a/../b", "/a//b", "a\n", "./a", "\ud800"])
def test_an_option_with_such_a_path_is_refused_by_name(value: str) -> None:
    with pytest.raises(IsolationError) as error:
        from_option("target", value)
    assert str(error.value) == f"target: {value!r} is not the path of a cgroup"


def test_a_slice_is_within_those_that_its_name_begins_with() -> None:
    assert of_slice(["machine"]) == "/machine.slice"
    assert of_slice(["a", "b", "c"]) == "/a.slice/a-b.slice/a-b-c.slice"
