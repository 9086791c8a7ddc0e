# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plain files and directories: what only stands there, such as drop-ins and what no write changes."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, Dict, List, Optional, Set

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import Part, Parts
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Baseline


class Files(Part):
    """Files by path. The other parts put here what they only have to show."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self.files: Dict[str, str] = {
            "/proc/sys/kernel/osrelease": "7.2.0-1-amd64" if baseline.isolated_only else "6.1.0-40-amd64",
            "/proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555",
            "/usr/share/dbus-1/system-services/org.freedesktop.machine1.service": "[D-BUS Service]",
        }
        self.folders: Set[str] = {"/run/systemd"}
        self.written: Dict[str, int] = Counter()  # how often each was: the time of its last change

    def put(self, path: str, text: str) -> None:
        """A file with all directories above it."""
        self.files[path] = text
        self.written[path] += 1
        while path != "/":
            path = os.path.dirname(path)
            self.folders.add(path)

    def read(self, path: str) -> Optional[str]:
        return self.files.get(path)

    def list(self, path: str) -> Optional[List[str]]:
        inside = [there[len(path) + 1 :] for there in (*self.files, *self.folders) if there.startswith(path + "/")]
        return sorted({name.split("/")[0] for name in inside}) if inside or path in self.folders else None

    def remove(self, path: str) -> bool:
        """Remove a file, if it is there."""
        return self.files.pop(path, None) is not None

    def remove_empty(self, path: str) -> bool:
        """Remove a directory, if it is there and empty."""
        if path not in self.folders or self.list(path):
            return False
        self.folders.remove(path)
        return True

    def snapshot(self) -> Dict[str, Any]:
        folders = {path: "directory" for path in self.folders if path.startswith("/run/systemd/")}
        return {**self.files, **folders}
