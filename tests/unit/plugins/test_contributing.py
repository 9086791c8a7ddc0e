# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The worked example of CONTRIBUTING.md: the files of a kind are those that it lists, and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator, List

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = "hugepages"
# Where code, documentation and tests are; what only speaks of the example is not a part of it.
FOLDERS = ("meta", "plugins", "roles", "playbooks", "extensions", "tests")
SPEAK_OF_IT = {"tests/unit/plugins/test_contributing.py"}
KINDS_OF_FILES = {".py", ".yml", ".yaml", ".md", ".sh", ".json"}


def listed() -> List[str]:
    """The files in the table."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE)


def naming_the_example() -> Iterator[str]:
    """Every file that has the example's name in it, or in its own name."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in KINDS_OF_FILES]
    for path in [*files, ROOT / "README.md"]:
        name = path.relative_to(ROOT).as_posix()
        if "/output/" in name or name in SPEAK_OF_IT:
            continue
        if re.search(rf"\b{EXAMPLE}\b", name + "\n" + path.read_text(encoding="utf-8"), re.IGNORECASE):
            yield name


def test_the_files_of_the_worked_example_are_those_that_are_listed() -> None:
    assert sorted(listed()) == sorted(naming_the_example())


def test_every_listed_file_is_there() -> None:
    assert len(listed()) > 10
    assert [name for name in listed() if not (ROOT / name).is_file()] == []
