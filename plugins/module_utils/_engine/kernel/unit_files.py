# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The files that systemd would read for a unit at the next daemon-reload.

They are found by systemd's rules: asking systemctl takes longer than all else that a run without changes does, and it
only knows the files of the last daemon-reload.
Source: systemd.unit(5); unit_file_find_dirs() and unit_file_find_dropin_paths() in src/shared/dropin.c.
"""

from __future__ import annotations

import re
from typing import Dict, List, Sequence, Tuple

from .host import Host

RUNTIME = "/run/systemd/system.control"
# ... and of units without a unit file of their own: init.scope, sessions, virtual machines.
TRANSIENT = "/run/systemd/transient"
PERSISTENT = "/etc/systemd/system.control"
# Where unit files are, first come first served: `systemctl show -p UnitPath`, on all distributions together.
LOAD_PATH = (
    PERSISTENT,
    RUNTIME,
    TRANSIENT,
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
)
# The types that have a cgroup and may have further names, see unit_type_may_alias() in src/basic/unit-def.c.
_ALIASED = ("service", "socket")


def names_with_drop_ins(unit: str) -> List[str]:
    """The unit and whatever else drop-ins for it may be named after, the most specific first; its type comes last.

    `a-b@c.service` has those of `a-b@.service`, `a-@c.service`, `a-@.service` and `service` as well.
    """
    stem, _dot, kind = unit.rpartition(".")
    prefix, at, instance = stem.partition("@")
    names = []
    dash = len(prefix)
    while dash > 0:
        names.append(f"{prefix}{at}{instance}.{kind}")
        if instance:
            names.append(f"{prefix}@.{kind}")
        shorter = prefix[:-1] if prefix.endswith("-") else prefix
        dash = shorter.rfind("-")
        prefix = shorter[: dash + 1]
    return [*names, kind]


def assigned(text: str, key: str) -> List[str]:
    """What a unit file assigns to a key, in its order. An empty value resets it."""
    pairs = (line.partition("=") for line in re.sub(r"\\\n", " ", text).splitlines())
    return [value.strip() for name, sign, value in pairs if sign and name.strip() == key]


class UnitFiles:
    """The unit files of a host, and their drop-ins. Each directory of the load path is listed once."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._listings: Dict[str, List[str]] = {}

    def read_for(self, unit: str, key: str) -> List[Tuple[str, str]]:
        """The files that say what a unit's key is, directory and name, in the order in which systemd reads them.

        The unit file comes first, then its drop-ins by their names, whatever the directory; of those with the same
        name, the first hides the others.
        """
        *names, kind = names_with_drop_ins(unit)
        aliases = (names_with_drop_ins(alias)[:-1] for alias in self._aliases(unit, key))
        found: Dict[str, str] = {}
        for directory in (d for group in (names, *aliases, [kind]) for d in self._present(group)):
            for name in self._host.list(directory):
                if name.endswith(".conf") and not name.startswith("."):
                    found.setdefault(name, directory)
        return [*self._fragment(unit), *((found[name], name) for name in sorted(found))]

    def assigns(self, path: str, key: str) -> bool:
        """Whether a unit file or drop-in sets a key, or resets it."""
        return bool(assigned(self._host.read(path) or "", key))

    def words(self, unit: str, key: str, without: Sequence[str] = ()) -> List[str]:
        """The words that a unit's files, but those `without`, give a key, which adds up over its assignments."""
        found: List[str] = []
        for directory, name in self.read_for(unit, key):
            if f"{directory}/{name}" in without:
                continue
            for value in assigned(self._host.read(f"{directory}/{name}") or "", key):
                found = [*found, *value.split()] if value else []
        return found

    def _listing(self, place: str) -> List[str]:
        if place not in self._listings:
            self._listings[place] = self._host.list(place)
        return self._listings[place]

    def _present(self, names: List[str]) -> List[str]:
        """The directories of drop-ins that there are with these names."""
        return [f"{place}/{name}.d" for place in LOAD_PATH for name in names if f"{name}.d" in self._listing(place)]

    def _fragment(self, unit: str) -> List[Tuple[str, str]]:
        """The unit file, if there is one."""
        template = re.sub("@[^.]+[.]", "@.", unit)
        return [(place, name) for name in (unit, template) for place in LOAD_PATH if name in self._listing(place)][:1]

    def _aliases(self, unit: str, key: str) -> List[str]:
        """The other names of a unit. Only asked if something named otherwise has a drop-in with this key."""
        kind = unit.rpartition(".")[2]
        if kind not in _ALIASED:
            return []
        own = [f"{name}.d" for name in names_with_drop_ins(unit)]
        others = (
            f"{place}/{name}"
            for place in LOAD_PATH
            for name in self._listing(place)
            if name.endswith(f".{kind}.d") and name not in own
        )
        if not any(self.assigns(f"{other}/{name}", key) for other in others for name in self._host.list(other)):
            return []
        names = self._host.ask("systemctl", "show", "--value", "-p", "Names", "--", unit) or ""
        return [name for name in names.split() if name != unit]
