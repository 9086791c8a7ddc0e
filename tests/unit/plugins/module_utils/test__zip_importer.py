# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Imports out of a zip: each module is compiled once, by one run of several, and is what it is without that."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils import _zip_importer

MODULE_UTILS = Path(_zip_importer.__file__).parent
IMPORTER = ("_zip_importer.py", "_engine/__init__.py", "_engine/paths.py")
IMPORTER += ("_engine/kernel/__init__.py", "_engine/kernel/code_cache.py")
FILES = {
    "package/__init__.py": "",
    "package/inner/__init__.py": "",
    "package/inner/deep.py": "from .. import beside\nVALUE = beside.VALUE + 1\n",
    "package/beside.py": "VALUE = 1\n",
    "alone.py": "from package.inner.deep import VALUE\n",
}
ALL = ["alone.py", "package/beside.py", "package/inner/__init__.py", "package/inner/deep.py"]
PROGRAM = """
import builtins, json, sys
sys.path.insert(0, sys.argv[1])
compiled = []
original = builtins.compile
def compile(source, name, *more, **most):
    compiled.append(str(name))
    return original(source, name, *more, **most)
import package  # before: with the importer that Python has for it by now
if sys.argv[2] == "once":
    sys.path.insert(1, sys.argv[3])
    from module_utils import _zip_importer
    _zip_importer.cache = _zip_importer.CodeCache(sys.argv[3] + "/code")
    _zip_importer.compile_once()
    _zip_importer.compile_once()
builtins.compile = compile
import zipimport
zipimport.__dict__["compile"] = compile  # it has builtins of its own
import alone, package.inner.deep as deep
names = [name[len(sys.argv[1]) + 1 :] for name in compiled if name.startswith(sys.argv[1])]
seen = [alone.__file__, deep.__file__, package.inner.__file__, deep.VALUE, deep.__spec__.origin, package.inner.__path__]
if sys.argv[2] == "once":
    _zip_importer.cache.save()
print(json.dumps([sorted(names), seen]))
"""


@pytest.fixture
def imported(tmp_path: Path) -> Any:
    """What is compiled, and what the modules look like; by how it is imported, and from which zip."""
    beside = tmp_path / "beside"
    for name in IMPORTER:
        (beside / "module_utils" / name).parent.mkdir(exist_ok=True, parents=True)
        (beside / "module_utils" / name).write_bytes((MODULE_UTILS / name).read_bytes())

    def run(how: str, archive: str = "all.zip", **files: str) -> Any:
        with zipfile.ZipFile(tmp_path / archive, "w") as packed:
            for name, text in {**FILES, **files}.items():
                packed.writestr(name, text)
        command = [sys.executable, "-I", "-c", PROGRAM, str(tmp_path / archive), how, str(beside)]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)

    return run


def test_each_module_is_compiled_once(imported: Any) -> None:
    compiled, _seen = imported("once")
    assert compiled == ALL


def test_modules_look_as_python_itself_has_them(imported: Any) -> None:
    assert imported("once")[1] == imported("as python does")[1]


def test_a_later_run_compiles_only_what_has_changed(imported: Any) -> None:
    """Also from a zip in another place, as Ansible's is."""
    imported("once")
    changed = {"package/beside.py": "VALUE = 2\n"}  # as long as before
    compiled, seen = imported("once", "later.zip", **changed)
    # Before Python 3.10, zipimporter does not ask for a module's code.
    assert compiled == (["package/beside.py"] if sys.version_info >= (3, 10) else ALL)
    assert seen == imported("as python does", "later.zip", **changed)[1]
    assert imported("once", "last.zip", **changed)[0] == ([] if sys.version_info >= (3, 10) else ALL)
