# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""irqbalance: a process that bans CPUs as it is told over its socket, and shows that after its next scan."""

from __future__ import annotations

import errno
from typing import Any, Dict, List, Optional

from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.part import (
    Difference,
    Part,
    Parts,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.threads import (
    Thread,
    Threads,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    Baseline,
    Cpus,
    numbers,
    os_error,
    text_of,
)

SOCKETS = "/run/irqbalance"


class Irqbalance(Part):
    """It does not run before it is started. A `silent` one has its socket, and does not answer."""

    def __init__(self, parts: Parts, baseline: Baseline) -> None:
        self._threads = parts[Threads].threads
        self._process = 0
        self._configured: Cpus = frozenset()
        self._shown: Cpus = frozenset()
        self.banned: Cpus = frozenset()
        self.silent = False

    def start(self, process: int, banned: str = "") -> None:
        """It begins, or begins anew, with the ban of its own configuration."""
        self._threads.pop(self._process, None)
        self._threads[process] = Thread(5000 + process, "/system.slice/b.service", 0)
        self._threads[process].begin(numbers("0-7"), numbers("0-7"))
        self._process = process
        self._configured = self._shown = self.banned = numbers(banned)

    def scan(self) -> None:
        """From now on it shows what it was told."""
        self._shown = self.banned

    def _runs(self) -> bool:
        return self._process in self._threads

    def _socket(self) -> str:
        return f"irqbalance{self._process}.sock"

    def read(self, path: str) -> Optional[str]:
        return "" if self._runs() and path == f"{SOCKETS}/{self._socket()}" else None

    def list(self, path: str) -> Optional[List[str]]:
        return [self._socket()] if self._runs() and path == SOCKETS else None

    def converse(self, path: str, message: str) -> Optional[str]:
        if self.read(path) is None:
            return None
        if self.silent:
            raise os_error(errno.ETIMEDOUT)
        if message == "setup":
            return f"SLEEP 10 IRQ 24 LOAD 0 DIFF 0 CLASS 0 BANNED {sum(1 << cpu for cpu in self._shown):08x}"
        words = message.split()
        assert words[:2] == ["settings", "cpus"] and len(words) == 3, message
        self.banned = self._configured if words[2] == "NULL" else numbers(words[2])
        return ""

    def snapshot(self) -> Dict[str, Any]:
        if not self._runs():
            return {}
        return {f"irqbalance {self._process}:{self._threads[self._process].start}": text_of(self.banned)}

    @staticmethod
    def address(seen: Difference) -> Optional[str]:
        word, _space, process = seen.line.partition(" ")
        return f"irqbalance.banned:{process}" if word == "irqbalance" else None
