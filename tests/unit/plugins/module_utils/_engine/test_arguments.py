# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options checked without Ansible."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.arguments import read_item, validated
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError

SPEC = {
    "word": {"type": "str", "choices": ["a", "b"], "default": "a"},
    "flag": {"type": "bool", "default": False},
    "count": {"type": "int"},
    "words": {"type": "list", "elements": "str"},
    "numbers": {"type": "list", "elements": "int"},
    "anything": {"type": "raw"},
    "things": {"type": "list", "elements": "raw"},
}


def accepted(option: str, value: Any) -> Any:
    """What becomes of an option."""
    return validated("step", SPEC, {option: value})[option]


@pytest.mark.parametrize(
    ("option", "value", "becomes"),
    [
        ("words", ["a", "b"], ["a", "b"]),
        ("words", [0, "1"], ["0", "1"]),
        ("words", [], []),
        ("words", None, None),
        ("numbers", [1, 2], [1, 2]),
        ("things", [1, "a", True, None, {"x": []}], [1, "a", True, None, {"x": []}]),
        ("anything", True, True),
        ("count", 3, 3),
        ("flag", None, False),
        ("word", None, "a"),
    ],
)
def test_what_fits_is_taken(option: str, value: Any, becomes: Any) -> None:
    assert accepted(option, value) == becomes


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("words", [True], "step: words has True; expected str"),
        ("words", [None], "step: words has None; expected str"),
        ("words", [["a"]], r"step: words has \['a'\]; expected str"),
        ("words", [1.5], "step: words has 1.5; expected str"),
        ("words", "a", "step: words is 'a'; expected list"),
        ("numbers", [1, "2"], "step: numbers has '2'; expected int"),
        ("numbers", [True], "step: numbers has True; expected int"),
        ("numbers", [1.0], "step: numbers has 1.0; expected int"),
        ("count", True, "step: count is True; expected int"),
        ("flag", 1, "step: flag is 1; expected bool"),
        ("word", "c", "step: word is 'c'; expected one of a, b"),
        ("word", True, "step: word is True; expected str"),
        ("unknown", 1, "step has no option unknown; it has word, flag"),
    ],
)
def test_what_does_not_fit_is_named_with_what_was_expected(option: str, value: Any, words: str) -> None:
    with pytest.raises(IsolationError, match=words):
        accepted(option, value)


def test_what_was_given_stays_as_it_was() -> None:
    given = {"words": [1]}
    assert validated("step", SPEC, given)["words"] == ["1"] and given == {"words": [1]}


def test_a_required_option_is_missing_also_if_it_is_null() -> None:
    spec = {"cpus": {"type": "raw", "required": True}}
    for given in ({}, {"cpus": None}):
        with pytest.raises(IsolationError, match="step needs cpus"):
            validated("step", spec, given)


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"drop_caches": {"sync": True}}, ("drop_caches", {"sync": True})),
        ({"vfio.isolation.drop_caches": None}, ("drop_caches", None)),
        ({"drop_caches": {}, "when": True}, ("drop_caches", {})),
        ({"drop_caches": {}, "when": "False"}, None),
        ({"drop_caches": {}, "when": False}, None),
    ],
)
def test_an_item_names_one_module(item: Any, named: Any) -> None:
    assert read_item(item, "here") == named


@pytest.mark.parametrize("item", [{}, [], "x", None, {"a": {}, "b": {}}, {"when": True}, {"a": {}, "when": "maybe"}])
def test_another_item_is_refused_by_its_place(item: Any) -> None:
    with pytest.raises(IsolationError, match=r"^here: "):
        read_item(item, "here")
