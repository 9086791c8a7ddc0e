# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small tree of /proc, /sys and /run in a temporary directory, for the kernel layer on real files."""

from __future__ import annotations

import os
from typing import Dict, List, Sequence, Tuple

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import Skipped
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.host import Host


class FakeHost(Host):
    """Real files below `root`; affinities in a dict, commands in a list with the answers given beforehand."""

    def __init__(self, root: str, files: Dict[str, str]) -> None:
        super().__init__(root, run=self._answer, wrote=self._note)
        self.log: List[str] = []
        self.commands: List[Tuple[str, ...]] = []
        self.answers: Dict[str, Tuple[int, str, str]] = {}
        self.affinities: Dict[int, frozenset] = {}
        for path, text in files.items():
            self.put(path, text)

    def _note(self, what: str) -> None:
        self.log.append(what)

    def put(self, path: str, text: str) -> None:
        """A file, as the kernel would show it."""
        os.makedirs(os.path.dirname(self.root + path), exist_ok=True)
        with open(self.root + path, "w", encoding="utf-8") as stream:
            stream.write(text)

    def _answer(self, argv: Sequence[str]) -> Tuple[int, str, str]:
        self.commands.append(tuple(argv))
        return self.answers.get(argv[1], (0, "", ""))

    def affinity(self, thread: int) -> frozenset:
        return self.affinities.get(thread)

    def set_affinity(self, thread: int, cpus: frozenset) -> None:
        if thread not in self.affinities:
            raise Skipped("the thread has ended")
        self.affinities[thread] = cpus
