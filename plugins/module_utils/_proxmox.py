# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Installs the hookscript of Proxmox VE on a storage, and attaches it to virtual machines.

Proxmox VE is asked and changed by its commands only. Source: qm(1), pvesh(1), pvesm(1), `man qm.conf`.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Iterator, List, Mapping, Optional, Sequence, Tuple

from ._engine.errors import IsolationError, sentence_of
from ._engine.kernel.host import Host
from ._engine.kernel.proxmox import CONFIGS, PVESH, QM, ProxmoxVms
from ._engine.paths import HOOKSCRIPT, PROXMOX, SNIPPET
from ._engine.text.proxmox_config import is_ours
from ._host_files import Difference, File, Snippet
from ._install import Installation

Attachment = Tuple[str, str, str]  # a virtual machine, its hookscript before, and after


class Hookscript:
    """Our hookscript on one host. Each change returns the differences; with `check`, nothing is written."""

    def __init__(self, host: Host, check: bool) -> None:
        if not host.exists(QM):
            raise IsolationError(f"this is not a Proxmox VE host: it has no {QM}; for libvirt, use libvirt_hook")
        self._host = host
        self._check = check
        self._vms = ProxmoxVms(host)
        self._installation = Installation(host, check)

    def on(self, storage: str) -> Snippet:
        """Where the hookscript is on a storage. Raises IsolationError if it can have none."""
        if not re.match(r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]\Z", storage):
            raise IsolationError(f"storage: {storage[:40]!r} is not the ID of a storage")
        try:
            found = json.loads(self._host.ask(PVESH, "get", f"/storage/{storage}", "--output-format", "json") or "")
            kind, path, content = str(found["type"]), str(found.get("path", "")), str(found.get("content", ""))
            directory = str((found.get("content-dirs") or {}).get("snippets", "snippets"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise IsolationError(
                f"storage: Proxmox VE reports no storage {storage!r} on this host; see pvesm status"
            ) from None
        if not path.startswith("/"):
            raise IsolationError(f"storage: {storage} is a storage of type {kind}, which has no directory for snippets")
        kinds = content.split(",")
        if "snippets" not in kinds:
            wanted = ",".join(filter(None, [*kinds, "snippets"]))
            raise IsolationError(
                f"storage: {storage} is not configured for snippets; allow them with pvesm set {storage} --content"
                f" {wanted}"
            )
        place = f"{path.rstrip('/')}/{directory.strip('/')}/{SNIPPET}"
        return Snippet(f"{storage}:snippets/{SNIPPET}", place)

    def install(self, snippet: Snippet, wanted: Mapping[str, File], names: Sequence[str]) -> List[Difference]:
        """Install it, and attach it to these virtual machines. If that fails, nothing is changed."""
        attachments = self._to_attach(snippet, names)
        elsewhere = [path for path in self._paths() if path != snippet.path]  # on another storage
        gone: List[Difference] = []

        def attach(_found: Sequence[Difference]) -> None:
            self._attach(attachments)
            with self._undone_on_failure(attachments):
                for path in elsewhere:  # which no virtual machine needs from now on
                    gone.extend(self._installation.discard(path))

        found = self._installation.install(wanted, (PROXMOX.configuration, snippet.path), attach)
        return found + gone + _shown(attachments)

    @contextlib.contextmanager
    def detached(self) -> Iterator[List[Difference]]:
        """Detach it from all virtual machines. If what is done in here fails, these have it again.

        Not while events wait for a lock of ours: they are those of virtual machines that Proxmox VE has locked.
        """
        attachments = [(name, c.hookscript, "") for name, c in self._vms.configs().items() if is_ours(c.hookscript)]
        self._attach(attachments)
        with self._undone_on_failure(attachments):
            yield _shown(attachments)

    def uninstall(self) -> List[Difference]:
        """Remove it, after it was detached. If that fails, nothing is changed."""
        owned = (PROXMOX.configuration, HOOKSCRIPT, *self._paths())
        return self._installation.uninstall(owned, lambda _found: None)

    def stop_watching(self) -> None:
        """Stop the units that watch virtual machines."""
        if not self._check:
            self._host.ask("systemctl", "stop", "--", "vfio-isolation-vm-*.service")

    def without_cpus(self, names: Sequence[str]) -> List[str]:
        """Those of these virtual machines that have no affinity."""
        configs = self._vms.configs()
        return [name for name in names if name in configs and not configs[name].affinity]

    def _paths(self) -> List[str]:
        """Where the hookscript is installed and may be removed: nowhere, or at one path.

        Without it, a virtual machine that has it in its configuration would not start, so it stays as long as a
        snapshot could bring it back, or another host might share its storage.
        """
        try:
            snippet = Snippet(**json.loads(self._host.read_own(HOOKSCRIPT) or "null"))
            is_removable = snippet.path.endswith(f"/{SNIPPET}") and not self._vms.keeps(snippet.volume)
            return [snippet.path] if is_removable else []
        except (ValueError, TypeError, AttributeError):
            return []

    def _to_attach(self, snippet: Snippet, names: Sequence[str]) -> List[Attachment]:
        """Raises IsolationError if one does not exist, or has another hookscript."""
        configs = self._vms.configs()
        attachments = []
        for name in names:
            if name not in configs:
                there = ", ".join(sorted(configs, key=int)) or "none"
                raise IsolationError(
                    f"vms: there is no VM {name} on this host; there are {there}. List it for the host that it is on"
                )
            before = configs[name].hookscript
            if before and not is_ours(before):
                raise IsolationError(
                    f"vms: VM {name} already has the hookscript {before}, and can have only one; call this one from it,"
                    f" or remove it (qm set {name} --delete hookscript)"
                )
            attachments.append((name, before, snippet.volume))
        # Copies of a virtual machine, too, if it moves to another storage: they would not start without it.
        attachments += [(n, c.hookscript, snippet.volume) for n, c in configs.items() if is_ours(c.hookscript)]
        return [attachment for attachment in dict.fromkeys(attachments) if attachment[1] != attachment[2]]

    def _attach(self, attachments: Sequence[Attachment]) -> None:
        """Give virtual machines their hookscripts. If one is refused, all have what they had. Raises IsolationError."""
        if self._check:
            return
        done: List[Attachment] = []
        with self._undone_on_failure(done):
            for attachment in attachments:
                self._set(attachment[0], attachment[2])
                done.append(attachment)

    @contextlib.contextmanager
    def _undone_on_failure(self, attachments: Sequence[Attachment]) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            failures = []
            for name, before, _after in attachments if not self._check else ():
                try:
                    self._set(name, before)
                except IsolationError as also:
                    failures.append(sentence_of(also))
            if failures:
                raise IsolationError("; ".join([sentence_of(error), *failures])) from error
            raise

    def _set(self, name: str, volume: str) -> None:
        self._host.change(QM, "set", name, *(("--hookscript", volume) if volume else ("--delete", "hookscript")))


def _shown(attachments: Sequence[Attachment]) -> List[Difference]:
    """The lines of configurations that change."""
    return [Difference(f"{CONFIGS}/{name}.conf", _line(before), _line(after)) for name, before, after in attachments]


def _line(hookscript: str) -> Optional[File]:
    return File(f"hookscript: {hookscript}\n") if hookscript else None
