# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Imports from Ansible's zip: what an earlier run has compiled is not compiled again, anything else once, not twice.

To know a module's file name, Python's zipimporter compiles the module, and does so again to run it:
https://github.com/python/cpython/issues/141276. The file name follows from the module's name.
"""

from __future__ import annotations

import os
import sys
from importlib.util import source_hash
from types import CodeType
from typing import Any, List
from zipimport import zipimporter

from ._engine.kernel.code_cache import CodeCache
from ._engine.paths import CODE

cache = CodeCache(CODE)


class ZipImporter(zipimporter):
    """A zipimporter that knows file names without compiling, and compiles what is not in the cache."""

    def get_filename(self, fullname: str) -> str:
        """The path of a module's source. Raises ZipImportError if there is no such module."""
        name = self.prefix + fullname.rpartition(".")[2]
        return os.path.join(self.archive, f"{name}/__init__.py" if self.is_package(fullname) else f"{name}.py")

    def get_code(self, fullname: str) -> CodeType:
        """The module's code. Before Python 3.10 it is not asked for: there, nothing is cached."""
        path = self.get_filename(fullname)
        source = self.get_data(path)
        return cache.code(fullname, source_hash(source), lambda: source, path)


def compile_once() -> None:
    """Compile once what is imported from now on. Without a zip, nothing changes."""
    hooks: List[Any] = sys.path_hooks
    if ZipImporter in hooks:
        return
    hooks.insert(0, ZipImporter)
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimporter):
            del sys.path_importer_cache[path]
