# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection's own tables, read from its files, and how they are compared."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Set, Tuple

import pytest

yaml = pytest.importorskip("yaml", reason="the tables are YAML, and only a controller has PyYAML")

ROOT = Path(__file__).resolve().parents[3]
PREFIX = "vfio.isolation."


def names(pattern: str) -> Set[str]:
    """The files of the collection that match, by name without the ending."""
    return {path.stem for path in ROOT.glob(pattern) if path.stem not in ("__init__", "__pycache__")}


def text(path: str) -> str:
    """A file of the collection."""
    return (ROOT / path).read_text(encoding="utf-8")


def loaded(path: str) -> Any:
    """A YAML file of the collection."""
    return yaml.safe_load(text(path))


def section(path: str, title: str) -> str:
    """A section of a Markdown file, without those that follow, be they below it or not."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text(path), re.MULTILINE | re.DOTALL)
    assert found, f"{path} has no section {title}"
    return found[1]


def rows(markdown: str, first: str) -> List[List[str]]:
    """The cells of a Markdown table that is known by the head of its first column, without its head."""
    found = re.search(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", markdown, re.MULTILINE)
    assert found, f"there is no table that begins with a column {first!r}"
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in found[1].splitlines()]


def quoted(markdown: str) -> List[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", markdown)


def marked(letter: str, documented: Any) -> Set[str]:
    """What stands in a documentation's markup, such as `V(...)`, without the name of the collection."""
    joined = documented if isinstance(documented, str) else " ".join(documented)
    return {re.sub(rf"^{re.escape(PREFIX)}", "", word) for word in re.findall(rf"\b{letter}\(([^)]*)\)", joined)}


def constants(path: str) -> Dict[str, str]:
    """The texts that a Python file assigns to names, at its top or in its classes."""
    found = {}
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.update({target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)})
    return found


class Documented:
    """A module or filter as it documents itself."""

    def __init__(self, path: str) -> None:
        blocks = constants(path)
        self.documentation: Dict[str, Any] = yaml.safe_load(blocks["DOCUMENTATION"])
        self.returned: Dict[str, Any] = yaml.safe_load(blocks["RETURN"])
        self.fragments: List[str] = self.documentation.get("extends_documentation_fragment", [])
        self.own_options: Dict[str, Any] = self.documentation.get("options", {})

    @property
    def options(self) -> Dict[str, Any]:
        """All options, those of fragments too."""
        merged: Dict[str, Any] = {}
        for fragment in self.fragments:
            file, _dot, name = fragment[len(PREFIX) :].partition(".")
            block = constants(f"plugins/doc_fragments/{file}.py")[name.upper() or "DOCUMENTATION"]
            merged.update(yaml.safe_load(block)["options"])
        return {**merged, **self.own_options}


MODULES = {name: Documented(f"plugins/modules/{name}.py") for name in sorted(names("plugins/modules/*.py"))}
FILTERS = {name: Documented(f"plugins/filter/{name}.py") for name in sorted(names("plugins/filter/*.py"))}


def spec(option: Mapping[str, Any]) -> Dict[str, Any]:
    """What documentation, argument specs and roles say of an option alike, whatever each leaves out."""
    choices = option.get("choices")
    return {
        "type": option.get("type", "str"),
        "elements": option.get("elements"),
        "required": option.get("required", False),
        "default": option.get("default"),
        "choices": choices and sorted(choices),
    }


def expect_same(tables: Mapping[str, Iterable[str]]) -> None:
    """Fail unless all tables list the same, with a sentence for each table that lacks something."""
    listed = {table: set(entries) for table, entries in tables.items()}
    sentences = []
    for table, entries in listed.items():
        for entry in sorted(set().union(*listed.values()) - entries):
            having = ", ".join(other for other in listed if entry in listed[other])
            sentences.append(f"{table} lacks {entry}, which is in {having}")
    _fail_with(sentences)


def expect_alike(what: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Fail unless two tables list the same entries, and say the same of each."""
    expect_same({f"{table} ({what})": entries for table, entries in tables.items()})
    (first, one), (second, other) = tables.items()
    _fail_with(
        f"{what}: {path} is {here!r} in {first}, but {there!r} in {second}"
        for entry in sorted(one)
        for path, here, there in _differences(entry, one[entry], other[entry])
    )


def _differences(path: str, one: Any, other: Any) -> Iterator[Tuple[str, Any, Any]]:
    """Where two entries differ, and what they say there."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _differences(f"{path}, {key}", one.get(key), other.get(key))
    elif one != other:
        yield path, one, other


def _fail_with(sentences: Iterable[str]) -> None:
    found = list(sentences)
    if found:
        pytest.fail("\n".join(found), pytrace=False)
