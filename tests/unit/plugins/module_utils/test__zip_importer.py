# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Imports out of a zip: each module is compiled once, and is what it is without that."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils import _zip_importer

SOURCE = Path(_zip_importer.__file__).read_text(encoding="utf-8")
FILES = {
    "package/__init__.py": "",
    "package/inner/__init__.py": "",
    "package/inner/deep.py": "from .. import beside\nVALUE = beside.VALUE + 1\n",
    "package/beside.py": "VALUE = 1\n",
    "alone.py": "from package.inner.deep import VALUE\n",
}
PROGRAM = """
import builtins, json, sys
sys.path.insert(0, sys.argv[1])
compiled = []
original = builtins.compile
def compile(source, name, *more, **most):
    compiled.append(str(name))
    return original(source, name, *more, **most)
import package  # before: with the importer that Python has for it by now
builtins.compile = compile
if sys.argv[2] == "once":
    sys.path.insert(1, sys.argv[3])
    from _zip_importer import compile_once
    compile_once()
    compile_once()
import zipimport
zipimport.__dict__["compile"] = compile  # it has builtins of its own
import alone, package.inner.deep as deep
names = [name[len(sys.argv[1]) + 1 :] for name in compiled if name.startswith(sys.argv[1])]
seen = [alone.__file__, deep.__file__, package.inner.__file__, deep.VALUE, deep.__spec__.origin, package.inner.__path__]
print(json.dumps([names, seen]))
"""


@pytest.fixture
def imported(tmp_path: Path) -> Any:
    """What is compiled, and what the modules look like; by how it is imported."""
    archive, beside = tmp_path / "all.zip", tmp_path / "beside"
    beside.mkdir()
    (beside / "_zip_importer.py").write_text(SOURCE, encoding="utf-8")
    with zipfile.ZipFile(archive, "w") as packed:
        for name, text in FILES.items():
            packed.writestr(name, text)

    def run(how: str) -> Any:
        command = [sys.executable, "-I", "-c", PROGRAM, str(archive), how, str(beside)]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)

    return run


def test_each_module_is_compiled_once(imported: Any) -> None:
    compiled, _seen = imported("once")
    assert sorted(compiled) == ["alone.py", "package/beside.py", "package/inner/__init__.py", "package/inner/deep.py"]


def test_modules_look_as_python_itself_has_them(imported: Any) -> None:
    assert imported("once")[1] == imported("as python does")[1]
