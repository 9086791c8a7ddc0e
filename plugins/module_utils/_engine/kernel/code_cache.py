# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What Python has compiled of our modules, in one file.

Python itself caches nothing of a zip, and otherwise has one file for each module, which is a wait for the disk each
if the page cache is cold: after `drop_caches`, or when a host starts its first VM.
"""

from __future__ import annotations

# Every VM of the host waits for this: nothing is imported here that Python has not imported before.
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, Callable, Dict, Optional, Sequence, Tuple

WRITABLE_BY_OTHERS = 0o022  # group, others
ModuleSpec: Any = type(sys.__spec__)  # without importlib.machinery, which imports much more


class CodeCache:
    """The compiled modules in one file. A file that is damaged, or another Python's, counts as empty."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._found: Optional[Dict[str, Tuple[object, Any]]] = None
        self._grew = False

    def code(self, module: str, stamp: object, source: Callable[[], bytes], path: str) -> CodeType:
        """A module's code: the cached one if it is of the same stamp, else the compiled source.

        A stamp is a value that differs if the source does. `path` is the file to name in tracebacks.
        """
        if self._found is None:
            self._found = self._load()
        known, code = self._found.get(module, (None, b""))
        if known == stamp:
            cached: CodeType = marshal.loads(code) if isinstance(code, bytes) else code
            return cached
        # Without docstrings, which nobody reads there.
        fresh: CodeType = compile(source(), path, "exec", dont_inherit=True, optimize=2)
        self._found[module] = stamp, fresh
        self._grew = True
        return fresh

    def save(self) -> None:
        """Write the file if a module was compiled. Where it cannot be written, there is no cache."""
        if not self._grew or sys.dont_write_bytecode:
            return
        codes = {
            module: (stamp, code if isinstance(code, bytes) else marshal.dumps(code))
            for module, (stamp, code) in (self._found or {}).items()
        }
        beside = f"{self._path}.{os.getpid()}"
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as stream:
                stream.write(marshal.dumps((sys.version, codes)))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(beside, self._path)
        except OSError:
            try:
                os.unlink(beside)
            except OSError:
                return

    def _load(self) -> Dict[str, Tuple[object, Any]]:
        try:
            with open(self._path, "rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_uid != os.geteuid() or status.st_mode & WRITABLE_BY_OTHERS:
                    return {}
                version, codes = marshal.loads(stream.read())
                return dict(codes) if version == sys.version else {}
        except (OSError, EOFError, ValueError, TypeError):
            return {}


class _Loader:
    """Loads a module out of the cache, or out of its file."""

    def __init__(self, cache: CodeCache, path: str) -> None:
        status = os.stat(path)
        self._cache = cache
        self._path = path
        self._stamp = (status.st_mtime_ns, status.st_size)  # as Python does: a change changes one of these

    def create_module(self, _spec: Any) -> None:
        """Python makes the module."""

    def exec_module(self, module: Any) -> None:
        """Run the module's code in it."""
        exec(self._cache.code(module.__name__, self._stamp, self._source, self._path), module.__dict__)

    def _source(self) -> bytes:
        with open(self._path, "rb") as stream:
            return stream.read()


class _Finder:
    """Finds the modules of a directory and those below; half as much work as Python's own, which lists directories."""

    def __init__(self, cache: CodeCache, package: str) -> None:
        self._cache = cache
        self._package = package

    def find_spec(self, fullname: str, path: Optional[Sequence[str]], _target: object = None) -> Any:
        """Where a module is; None if Python has to look for it."""
        if not path or not path[0].startswith(self._package):
            return None
        place = f"{path[0]}/{fullname.rpartition('.')[2]}"
        for file, inside in ((f"{place}.py", None), (f"{place}/__init__.py", [place])):
            try:
                loader = _Loader(self._cache, file)
            except OSError:
                continue
            spec = ModuleSpec(fullname, loader, origin=file)
            spec.has_location, spec.submodule_search_locations = True, inside
            return spec
        return None


def cache_imports(package: str) -> CodeCache:
    """Have what is imported from now on out of a package's directory come out of a cache, and return it."""
    cache = CodeCache(f"{package}/__pycache__/all.{sys.implementation.cache_tag}")
    sys.meta_path.insert(0, _Finder(cache, package))
    return cache
