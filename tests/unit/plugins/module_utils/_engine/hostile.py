# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What no reader of outside text expects: strategies that mutate what is valid, and that are well aimed noise."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple, Union

from hypothesis import strategies as st

# Digits that are none to the kernel, lone surrogates, NUL, options, paths that lead out, numbers without end.
WORDS = (
    "",
    "²",
    "٣",
    "\ud800",
    "\udcff",
    "\0",
    "a\nb",
    "--help",
    "..",
    "/../x",
    "/",
    "/x",
    "x.slice",
    "-1",
    "0-65535",
    "0-99999999999",
    "0-7:1/2",
    "3-1",
    "1,,2",
    "4-7",
    "N1N2",
    "all",
    "9" * 30,
    "9" * 5000,
    "vm:x",
    "[z-a]",
    "%s{}",
    "é" * 200,
    "\u2028",
)
VALUES: Tuple[Any, ...] = (None, True, False, 0, -1, 1 << 70, 0.5, float("nan"), float("inf"), [], {}, [[]], {"": None})

Path = Tuple[Union[str, int], ...]


def texts() -> st.SearchStrategy[str]:
    """Text that means trouble, alone or within other text."""
    words = st.sampled_from(WORDS)
    return words | st.text(max_size=8) | st.builds("{}{}{}".format, st.text(max_size=3), words, st.text(max_size=3))


def values() -> st.SearchStrategy[Any]:
    """Anything that JSON can say."""
    leaves = st.sampled_from(VALUES) | texts() | st.integers() | st.floats()
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3))


def _places(content: Any, path: Path = ()) -> List[Path]:
    """The path of each value in something that is made of JSON."""
    items: Sequence[Tuple[Any, Any]] = ()
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, (list, tuple)):
        items = list(enumerate(content))
    return [path, *(place for key, value in items for place in _places(value, (*path, key)))]


def _replaced(content: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = _replaced(copy[path[0]], path[1:], value)
    return copy


def _renamed(content: Any, path: Path, key: str) -> Any:
    """The same with another key for the last of a path."""
    if len(path) > 1:
        return _replaced(content, path[:1], _renamed(content[path[0]], path[1:], key))
    return {key if old == path[0] else old: value for old, value in content.items()}


@st.composite
def changed_json(draw: st.DrawFn, content: Any) -> Any:
    """Valid content with one to three places of it changed: another value, another key, or gone."""
    for _change in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_places(content)))
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        if path and isinstance(parent, dict) and draw(st.integers(0, 3)) == 0:
            content = _renamed(content, path, draw(texts()))
        else:
            content = _replaced(content, path, draw(texts() | values()))
    return content


@st.composite
def changed_text(draw: st.DrawFn, text: str) -> str:
    """Valid text with a piece of it replaced."""
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 6)))
    return text[:start] + draw(texts()) + text[end:]
