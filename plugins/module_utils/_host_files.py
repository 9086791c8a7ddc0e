# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The texts of all files that are installed on a host: runner, hook, unit, configuration."""

from __future__ import annotations

import json
import pkgutil
import re
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional

from ._engine.entries import libvirt_hook, persistent_claim, runner
from ._engine.errors import IsolationError
from ._engine.kernel import code_cache
from ._engine.paths import CLAIMS, DEFAULT, EVENTS_LOCK, HOOK, RUNNER, UNIT, domain_file
from ._engine.text.units import escape

WANTS = "/etc/systemd/system/multi-user.target.wants"
DAEMONS = ("libvirtd.service", "virtqemud.service")
OLDEST = (3, 8)
START = f"{RUNNER}/__main__.py"
# What the runner can start. Ansible copies only what is imported, so all are imported here.
ENTRIES = (libvirt_hook, persistent_claim, runner)

MAIN = """\
# Runs an entry of the engine: python3 -I -S {runner} ENTRY ARGUMENT...
# This file says which version of it: it is replaced last, so that a run has all its modules from one version.
import gc
import os
import sys

sys.path[0] += "/{version}"
from engine.kernel.{cache} import cache_imports

# Virtual machines wait for this short run: no garbage collection, and no cleanup of the interpreter at the end.
gc.disable()
cache = cache_imports(sys.path[0] + "/engine")
code = __import__("engine.entries." + sys.argv[1], fromlist=["main"]).main(sys.argv[2:])
cache.save()
sys.stdout.flush()
sys.stderr.flush()  # buffered before Python 3.9 if it is a pipe
os._exit(code)
"""

# A shell first: for most events nothing else runs, and libvirtd's AppArmor profile allows the interpreter of a script
# less than a program in /usr/bin.
HOOK_TEXT = """\
#!/bin/sh
# Installed by the role vfio.isolation.libvirt_hook. Its log is in the systemd journal: journalctl -t vfio-isolation
case $2-$3 in
    prepare-begin | release-end) ;;
    # Only if a domain has had a claim since the host booted.
    started-begin) [ -e {lock} ] || exit 0 ;;
    # start comes too late and stopped too early; after reconnect and attach a domain keeps running; migrate and restore
    # leave the XML as it is if nothing is on standard output.
    *) exit 0 ;;
esac
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
exec {python} -I -S {runner} {entry} "$@"
"""

UNIT_TEXT = """\
# Installed by vfio.isolation.transaction, for claims that persist.
[Unit]
Description=CPU isolation for virtual machines, claim %I
Documentation=https://github.com/vfio-isolation/vfio.isolation
Before=libvirtd.service virtqemud.service libvirt-guests.service
After=irqbalance.service systemd-udev-settle.service

[Service]
Type=oneshot
RemainAfterExit=yes
Slice=system.slice
ExecStart={python} -I -S {runner} {entry} start {claims}/%i.json
ExecStop={python} -I -S {runner} {entry} stop {claims}/%i.json

[Install]
WantedBy=multi-user.target
"""


class File(NamedTuple):
    """A file of ours: its text and its mode."""

    text: str
    mode: int = 0o644


class Difference(NamedTuple):
    """A file that is not as it should be; None if it does not exist, or should not."""

    path: str
    before: Optional[File]
    after: Optional[File]


def runner_files() -> Dict[str, File]:
    """The host runner: the engine as a package, and what starts its entries."""
    sources = _sources()
    version = f"engine-{sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:16]}"
    engine = {f"{RUNNER}/{version}/engine/{name}": File(text) for name, text in sources.items()}
    main = MAIN.format(runner=RUNNER, version=version, cache=_name(code_cache))
    return {**engine, START: File(main)}


def version_in(main: str) -> str:
    """The directory of the version that a `__main__.py` starts; before there were versions, `engine`."""
    match = re.search(r'"/(engine-[0-9a-f]{16})"', main)
    return match[1] if match else "engine"


def hook_files(
    domains: Mapping[str, Mapping[str, Any]], default: Optional[Mapping[str, Any]], python: str
) -> Dict[str, File]:
    """The hook, and the configuration of each domain. Options that are None are not written: they have defaults."""
    text = HOOK_TEXT.format(python=python, runner=RUNNER, entry=_name(libvirt_hook), lock=EVENTS_LOCK)
    files = {HOOK: File(text, 0o755)}
    files.update({domain_file(name): _json(given) for name, given in domains.items()})
    if default is not None:
        files[DEFAULT] = _json(default)
    return files


def unit_files(claim: str, steps: Iterable[Any], python: str) -> Dict[str, File]:
    """The unit, and the claim that it makes."""
    text = UNIT_TEXT.format(python=python, runner=RUNNER, entry=_name(persistent_claim), claims=CLAIMS)
    return {UNIT: File(text), claim_file(claim): _json({"claim": claim, "steps": list(steps)})}


def claim_file(claim: str) -> str:
    """The file of a claim that persists."""
    return f"{CLAIMS}/{escape(claim)}.json"


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def _json(content: Mapping[str, Any]) -> File:
    given = {key: value for key, value in content.items() if value is not None}
    return File(json.dumps(given, indent=2, sort_keys=True) + "\n")


def _sources() -> Dict[str, str]:
    """The engine's files by their paths below its package, which is a directory or in Ansible's zip."""
    found: Dict[str, str] = {}
    pending = [(f"{__package__}._engine", "")]
    while pending:
        package, folder = pending.pop()
        found[f"{folder}__init__.py"] = ""
        for module in pkgutil.iter_modules(import_module(package).__path__):
            name = f"{package}.{module.name}"
            if module.ispkg:
                pending.append((name, f"{folder}{module.name}/"))
            else:
                found[f"{folder}{module.name}.py"] = _source(name)
    return found


def _source(name: str) -> str:
    spec = find_spec(name)
    loader: Any = spec.loader if spec else None
    # Not get_source(): loaders disagree whether it returns bytes.
    source: bytes = loader.get_data(spec.origin) if spec and loader else b""
    if not source:
        raise IsolationError(f"the source of {name} cannot be read, so there is nothing to install")
    return source.decode()
