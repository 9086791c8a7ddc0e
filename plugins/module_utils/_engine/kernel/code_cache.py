# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""What Python has compiled of our modules, in one file.

Python itself caches nothing of a zip, and otherwise has one file for each module, which is a wait for the disk each
if the page cache is cold: after `drop_caches`, or when a host starts its first VM.
"""

from __future__ import annotations

# Every VM of the host waits for this import: nothing that Python has not imported anyway.
import marshal
import os
import sys
from importlib.machinery import FileFinder, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, Callable, Dict, Optional, Tuple

WRITABLE_BY_OTHERS = 0o022  # group, others


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


def cache_imports(package: str) -> CodeCache:
    """Have what is imported from now on out of a package's directory come out of a cache, and return it."""
    cache = CodeCache(f"{package}/__pycache__/all.{sys.implementation.cache_tag}")

    class Loader(SourceFileLoader):
        def get_code(self, fullname: str) -> CodeType:
            status = os.stat(self.path)  # as Python does: whoever changes a source changes one of these
            stamp = (status.st_mtime_ns, status.st_size)
            return cache.code(fullname, stamp, lambda: self.get_data(self.path), self.path)

    def finder(path: str) -> FileFinder:
        if not path.startswith(package):
            raise ImportError(path)
        return FileFinder(path, (Loader, [".py"]))

    sys.path_hooks.insert(0, finder)
    for path in list(sys.path_importer_cache):
        if path.startswith(package):
            del sys.path_importer_cache[path]
    return cache
