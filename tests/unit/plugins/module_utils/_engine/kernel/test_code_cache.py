# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is cached is the code of the same source, compiled by the same Python, in a file that only we can write."""

from __future__ import annotations

import json
import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel import code_cache
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.code_cache import CodeCache


def run(path: Path, **expressions: str) -> List[str]:
    """One run that imports modules of these sources. Returns those that it read, to compile them."""
    compiled = []
    cache = CodeCache(str(path))
    for name, expression in expressions.items():

        def source(text: str = expression) -> bytes:
            compiled.append(text)
            return f"VALUE = {text}".encode()

        found: Dict[str, Any] = {}
        exec(cache.code(name, expression, source, f"{name}.py"), found)
        assert found["VALUE"] == eval(expression)
    cache.save()
    return compiled


@pytest.fixture(autouse=True)
def _bytecode_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The cache of two modules."""
    path = tmp_path / "code"
    assert run(path, a="1 + 1", b="2 + 2") == ["1 + 1", "2 + 2"]
    return path


def test_nothing_is_compiled_twice(path: Path) -> None:
    assert run(path, a="1 + 1", b="2 + 2") == []


def test_a_changed_source_is_compiled(path: Path) -> None:
    assert run(path, a="1 + 3", b="2 + 2") == ["1 + 3"]
    assert run(path, a="1 + 3", b="2 + 2") == []


def test_a_module_that_is_not_imported_stays_in_the_cache(path: Path) -> None:
    assert run(path, c="3 + 3") == ["3 + 3"]
    assert run(path, a="1 + 1", b="2 + 2", c="3 + 3") == []


def test_nothing_is_written_if_nothing_was_compiled(path: Path) -> None:
    os.utime(path, ns=(1, 1))
    run(path, a="1 + 1")
    assert path.stat().st_mtime_ns == 1


def test_the_file_is_replaced_as_a_whole_and_only_its_owner_may_use_it(path: Path) -> None:
    before = path.stat().st_ino
    with path.open("rb") as stream:
        old = stream.read()
        run(path, c="3 + 3")
        stream.seek(0)
        assert stream.read() == old
    assert path.stat().st_ino != before and path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


def _of_another_python(path: Path) -> None:
    version, codes = marshal.loads(path.read_bytes())
    path.write_bytes(marshal.dumps((version.replace("3.", "4."), codes)))


@pytest.mark.parametrize(
    "damage",
    [
        _of_another_python,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b"\0" * 100),
        lambda path: path.write_bytes(b"no code"),
        lambda path: path.write_bytes(marshal.dumps(7)),
        lambda path: path.write_bytes(marshal.dumps((sys.version, 7))),
        lambda path: path.unlink(),
        lambda path: path.chmod(0o620),
        lambda path: path.chmod(0o602),
    ],
)
def test_what_cannot_be_trusted_or_read_is_made_anew(path: Path, damage: Callable[[Path], object]) -> None:
    damage(path)
    assert run(path, a="1 + 1") == ["1 + 1"]
    assert run(path, a="1 + 1") == []


def test_who_wants_no_bytecode_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert run(tmp_path / "code", a="1 + 1") == ["1 + 1"] and os.listdir(tmp_path) == []


def test_where_nothing_can_be_written_there_is_no_cache(tmp_path: Path) -> None:
    assert run(tmp_path / "no" / "such" / "directory", a="1 + 1") == ["1 + 1"]
    directory = tmp_path / "directory"
    directory.mkdir()
    assert run(directory, a="1 + 1") == ["1 + 1"]
    assert os.listdir(tmp_path) == [directory.name] and os.listdir(directory) == []


PROGRAM = """
import builtins, json, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import package
original, compiled = compile, []
from code_cache import cache_imports
def counted(source, path, *more, **options):
    compiled.append(path[len(sys.argv[2]) + 1 :])
    return original(source, path, *more, **options)
builtins.compile = counted
cache = cache_imports(sys.argv[2] + "/package")
import package.inner.deep as deep
cache.save()
print(json.dumps([compiled, deep.VALUE, deep.__file__, deep.__spec__.origin, package.inner.__path__]))
"""
SOURCES = {
    "package/__init__.py": "",
    "package/inner/__init__.py": "",
    "package/inner/deep.py": "VALUE = 1\n",
}


def test_a_package_s_modules_come_out_of_the_cache_and_look_as_python_has_them(tmp_path: Path) -> None:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    deep = tmp_path / "package" / "inner" / "deep.py"

    def imported() -> Any:
        command = [sys.executable, "-I", "-c", PROGRAM, str(Path(code_cache.__file__).parent), str(tmp_path)]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)

    looks = [str(deep), str(deep), [str(deep.parent)]]
    both = ["package/inner/__init__.py", "package/inner/deep.py"]
    assert imported() == [both, 1, *looks]
    assert imported() == [[], 1, *looks]
    status = deep.stat()
    deep.write_text("VALUE = 2\n", encoding="utf-8")  # as long as before
    os.utime(deep, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert imported() == [both[1:], 2, *looks]
    assert imported() == [[], 2, *looks]
