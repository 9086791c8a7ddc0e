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

from ._engine.entries import libvirt_hook, persistent_claim, proxmox_hook, runner
from ._engine.errors import IsolationError
from ._engine.kernel import code_cache
from ._engine.paths import CLAIMS, HOOK, HOOKSCRIPT, LIBVIRT, PROXMOX, RUNNER, UNIT, HookPaths
from ._engine.text.units import escape

UNITS = "/etc/systemd/system"
WANTS = f"{UNITS}/multi-user.target.wants"
DAEMONS = ("libvirtd.service", "virtqemud.service")
OLDEST = (3, 8)
START = f"{RUNNER}/__main__.py"
# What the runner can start. Ansible copies only what is imported, so all are imported here.
ENTRIES = (libvirt_hook, persistent_claim, proxmox_hook, runner)

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

# A shell first, as in libvirt's hook: the phases that do not concern us cost next to nothing.
SNIPPET_TEXT = """\
#!/bin/sh
# Installed by the role vfio.isolation.proxmox_hook. Its log is in the systemd journal: journalctl -t vfio-isolation
case $2 in
    pre-start | post-stop) ;;
    *) exit 0 ;;
esac
# Several hosts may have this storage, and the rest may not be installed on all of them.
[ -e {runner}/__main__.py ] || exit 0
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
# Also after a start that was ended halfway. It waits for another run, which may take as long as its locks allow.
ExecStopPost={python} -I -S {runner} {entry} stop {claims}/%i.json
TimeoutStopSec=700

[Install]
WantedBy=multi-user.target
"""


ON_DEMAND_TEXT = """\
# Installed by vfio.isolation.transaction, for a claim that lasts as long as another unit that requires this one.
[Unit]
StopWhenUnneeded=yes
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


class Snippet(NamedTuple):
    """The hookscript of Proxmox VE on a storage: its volume, such as local:snippets/vfio-isolation, and its path."""

    volume: str
    path: str


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
    """libvirt's hook, and the configuration of each domain."""
    text = HOOK_TEXT.format(python=python, runner=RUNNER, entry=_name(libvirt_hook), lock=LIBVIRT.lock)
    return {HOOK: File(text, 0o755), **_configurations(LIBVIRT, domains, default)}


def hookscript_files(
    snippet: Snippet, vms: Mapping[str, Mapping[str, Any]], default: Optional[Mapping[str, Any]], python: str
) -> Dict[str, File]:
    """The hookscript of Proxmox VE, where it is, and the configuration of each virtual machine."""
    text = SNIPPET_TEXT.format(python=python, runner=RUNNER, entry=_name(proxmox_hook))
    return {
        snippet.path: File(text, 0o755),
        HOOKSCRIPT: _json(snippet._asdict()),
        **_configurations(PROXMOX, vms, default),
    }


def _configurations(
    paths: HookPaths, machines: Mapping[str, Mapping[str, Any]], default: Optional[Mapping[str, Any]]
) -> Dict[str, File]:
    """The configurations of virtual machines. Options that are None are not written: they have defaults."""
    files = {paths.file(name): _json(given) for name, given in machines.items()}
    if default is not None:
        files[paths.default] = _json(default)
    return files


def unit_files(claim: str, steps: Iterable[Any], python: str, on_demand: bool = False) -> Dict[str, File]:
    """The unit, and the claim that it makes: at boot, or only while another unit requires it."""
    text = UNIT_TEXT.format(python=python, runner=RUNNER, entry=_name(persistent_claim), claims=CLAIMS)
    files = {UNIT: File(text), claim_file(claim): _json({"claim": claim, "steps": list(steps)})}
    if on_demand:
        files[on_demand_file(claim)] = File(ON_DEMAND_TEXT)
    return files


def unit_of(claim: str) -> str:
    """The unit of a claim that persists."""
    return f"vfio-isolation@{escape(claim)}.service"


def on_demand_file(claim: str) -> str:
    """The drop-in of a claim's unit that is only there while another unit requires it."""
    return f"{UNITS}/{unit_of(claim)}.d/on-demand.conf"


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
