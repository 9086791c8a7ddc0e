# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Installs the host runner on a host: the engine's files as they are, and what starts it: libvirt's hook, a unit.

All files are listed first and then compared with those on the host, so check mode and a second run follow from that.
"""

from __future__ import annotations

import contextlib
import re
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set

from ._engine.errors import IsolationError, sentence_of
from ._engine.kernel.host import Host
from ._engine.kernel.own_files import TEMPORARY_SUFFIX
from ._engine.paths import CLAIMS, HOOK, HOOKSCRIPT, LIBVIRT, PROXMOX, ROOT, RUNNER, UNIT
from ._engine.text.units import escape
from ._host_files import (
    DAEMONS,
    OLDEST,
    START,
    UNITS,
    WANTS,
    Difference,
    File,
    on_demand_file,
    runner_files,
    unit_of,
    version_in,
)

# A file of each hook that is there if the hook is installed.
HOOKS = (HOOK, HOOKSCRIPT)
LIBVIRT_FILES = (HOOK, LIBVIRT.configuration)


def check_persistable(claim: str) -> None:
    """Raise IsolationError if a claim's name is too long for its unit and its file."""
    longest = 255 - len("vfio-isolation@.service")
    if len(escape(claim)) > longest:
        raise IsolationError(
            f"claim: {claim[:40]!r} cannot persist: the name of its unit has {len(escape(claim))} characters between @"
            f" and .service, and at most {longest} are allowed"
        )


def check_python(host: Host, python: str) -> None:
    """Raise IsolationError unless a host's Python can run the engine."""
    printed = None
    if re.match(r"/[A-Za-z0-9_./+-]+\Z", python) and host.exists(python):
        printed = host.ask(python, "-I", "-S", "-c", "import sys; print(*sys.version_info[:2])")
    version = re.match(r"([0-9]{1,9}) ([0-9]{1,9})\n\Z", printed or "")
    if not version or (int(version[1]), int(version[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise IsolationError(f"python: {python} is not Python {oldest} or newer on this host; name one by its path")


class Installation:
    """What is installed on a host. Each change returns the differences; with `check`, nothing is written."""

    def __init__(self, host: Host, check: bool) -> None:
        self._host = host
        self._check = check
        self._put_back: Dict[str, Callable[[], None]] = {}  # for each changed file, what undoes the change

    def hook(self, wanted: Mapping[str, File]) -> List[Difference]:
        """Install libvirt's hook with these files. If the hook is new, libvirt is reloaded to find it."""

        def reload(found: Sequence[Difference]) -> None:
            if any(change.path == HOOK and change.before is None for change in found):
                self._reload_libvirt()

        return self.install(wanted, LIBVIRT_FILES, reload)

    def unhook(self) -> List[Difference]:
        """Remove libvirt's hook."""
        return self.uninstall(LIBVIRT_FILES, lambda found: self._reload_libvirt() if found else None)

    def install(
        self, wanted: Mapping[str, File], owned: Sequence[str], then: Callable[[Sequence[Difference]], None]
    ) -> List[Difference]:
        """Install a hook, with these files and no others of those it owns, and the runner.

        `then` is called with what differed. If that fails, nothing is changed.
        """
        found = self._change({**runner_files(), **wanted}, (RUNNER, *_with_new_versions(owned)))
        with self._undone_on_failure(found):
            then(found)
        return found

    def uninstall(self, owned: Sequence[str], then: Callable[[Sequence[Difference]], None]) -> List[Difference]:
        """Remove all files that a hook owns, and the runner if nothing else needs it.

        `then` is called with what differed. If that fails, nothing is changed.
        """
        is_needed = bool(self.persistent()) or any(self._host.exists(path) for path in HOOKS if path not in owned)
        found = self._change({}, (*_with_new_versions(owned), *([] if is_needed else [RUNNER])))
        with self._undone_on_failure(found):
            if found:
                self._tidy()
            then(found)
        return found

    def discard(self, path: str) -> List[Difference]:
        """Remove a file of a hook that is no longer needed. If that fails, nothing is changed."""
        return self._change({}, _with_new_versions([path]))

    def persistent(self) -> Set[str]:
        """The claims that are applied at boot, as instances of the unit; also if only a part of one is left."""
        links = (re.match(r"vfio-isolation@(.+)\.service\Z", name) for name in self._host.list(WANTS))
        files = (re.match(r"(.+)\.json\Z", name) for name in self._host.list(CLAIMS))
        return {match[1] for match in (*links, *files) if match}

    def is_required(self, claim: str) -> bool:
        """Whether a unit that runs requires the one of a claim: it would be stopped with it, see systemd.unit(5)."""
        return self._is_required(unit_of(claim))

    def persist(self, claim: str, wanted: Mapping[str, File], on_demand: bool = False) -> List[Difference]:
        """Have a claim applied at boot, or as long as another unit requires its unit.

        If that fails, nothing is changed. Raises IsolationError.
        """
        drop_in, unit = on_demand_file(claim), unit_of(claim)
        found = self._change({**runner_files(), **wanted}, (RUNNER, drop_in))
        written = list(found)
        state, link = self._state(unit), f"{WANTS}/{unit}"
        is_required = self._is_required(unit)
        if not on_demand:
            found += [Difference(link, None, File("enabled and started"))] if state != {"active", "enabled"} else []
        elif "enabled" in state or ("active" in state and not is_required):
            found.append(Difference(link, File("enabled or started"), None))
        elif is_required and "active" not in state:  # what requires it runs already, and the claim is to end with that
            found.append(Difference(link, None, File("started")))
        if not self._check and any(change.path in (UNIT, drop_in, link) for change in found):
            with self._undone_on_failure(written, {unit: state}):
                self._tidy()
                self._host.change("systemctl", "daemon-reload")
                if not on_demand:
                    self._host.change("systemctl", "enable", "--now", "--", unit)
                    return found
                self._host.change("systemctl", "disable", "--", unit)
                if not is_required:
                    self._stop(unit, self._host.change)
                elif "active" not in state:
                    self._host.change("systemctl", "start", "--", unit)
        return found

    def stop_persisting(self, claims: Optional[Iterable[str]]) -> List[Difference]:
        """Have claims (all if None) applied by no unit any more, and remove the runner if nothing needs it.

        If that fails, nothing is changed. Raises IsolationError.
        """
        instances = self.persistent()
        leaving = instances if claims is None else instances & {escape(claim) for claim in claims}
        if not leaving:
            return []
        names = [f"vfio-isolation@{instance}.service" for instance in sorted(leaving)]
        units = {} if self._check else {unit: self._state(unit) for unit in names}
        # The claims' files first: a unit that stops without its file leaves its claim as it is.
        files = [f"{CLAIMS}/{instance}.json" for instance in leaving]
        found = self._change({}, [*files, *(f"{UNITS}/{unit}.d/on-demand.conf" for unit in names)])
        with self._undone_on_failure(found, units):
            if not self._check:
                self._host.change("systemctl", "disable", "--", *names)
                for unit in names:
                    self._stop(unit, self._host.change)
            if leaving == instances:
                is_needed = any(self._host.exists(path) for path in HOOKS)
                found += self._change({}, [UNIT, *([] if is_needed else [RUNNER])])
            self._tidy()
            if not self._check:
                self._host.change("systemctl", "daemon-reload")
        return found

    def _stop(self, unit: str, run: Callable[..., object]) -> None:
        """Stop a unit, but no virtual machine that requires it.

        What is bound to a unit would stop in any case, so then the unit continues to be active.
        """
        if not self._is_needed(unit, "BoundBy"):
            run("systemctl", "stop", "--job-mode=ignore-dependencies", "--", unit)

    def _is_required(self, unit: str) -> bool:
        """Whether it is starting, for another unit that waits, or a unit that runs needs it."""
        return "activating" in self._state(unit) or self._is_needed(unit, "RequiredBy,RequisiteOf,BoundBy,WantedBy")

    def _is_needed(self, unit: str, how: str) -> bool:
        """Whether a unit that runs, starts or stops needs this one. A target, which starts it at boot, does not."""
        shown = self._host.ask("systemctl", "show", "--value", "-p", how, "--", unit)
        others = sorted(name for name in set((shown or "").split()) if "." in name and not name.endswith(".target"))
        states = map(self._state, others)
        return any(state and not state & {"inactive", "failed"} for state in states)

    def _change(self, wanted: Mapping[str, File], owned: Iterable[str]) -> List[Difference]:
        """Make the wanted files the only ones, of those wanted and those in `owned` (directories or files)."""
        existing = {path for place in owned for path in _below(self._host, place) if not self._is_kept(path, wanted)}
        found = []
        for path in sorted({*wanted, *existing}):
            before, after = _present(self._host, path), wanted.get(path)
            if before != (after and after._replace(text=after.text.rstrip("\n"))):
                found.append(Difference(path, before, after))
        if not self._check:
            written: List[Difference] = []
            fresh = {path for change in found for path in (change.path, *_above(change.path))}
            fresh = {path for path in fresh if not self._host.exists(path)} | {change.path for change in found}
            with self._undone_on_failure(written):
                for change in _in_order(found):
                    self._put_back[change.path] = self._host.keep(change.path)
                    written.append(change)
                    self._put(change.path, change.after)
                self._host.label(sorted(fresh))
            if found:
                self._tidy_runner()
        return found

    def _is_kept(self, path: str, wanted: Mapping[str, File]) -> bool:
        """Whether a file is of a version of the engine that a run may still be importing: the one that is replaced.

        It goes with the next one. As long as the version stays the same, no other one is looked at.
        """
        if START not in wanted or path == START or not path.startswith(f"{RUNNER}/"):
            return False
        found, new = version_in(self._host.read(START) or ""), version_in(wanted[START].text)
        version = path[len(RUNNER) + 1 :].partition("/")[0]
        return version != new and (found in (new, version))

    def _put(self, path: str, file: Optional[File]) -> None:
        if file is None:
            self._host.remove(path)
        else:
            self._host.save(path, file.text, file.mode)

    @contextlib.contextmanager
    def _undone_on_failure(
        self, written: Sequence[Difference], units: Optional[Mapping[str, Set[str]]] = None
    ) -> Iterator[None]:
        """If what is done in here fails, restore what was written, and the former states of units."""
        known = units or {}
        try:
            yield
        except Exception as error:
            failures = []
            for unit, states in known.items():
                if "enabled" not in states:
                    self._host.ask("systemctl", "disable", "--", unit)  # while its file exists
            for change in _in_order([Difference(path, after, before) for path, before, after in written]):
                try:
                    self._put_back.get(change.path, lambda: None)()
                except Exception as also:
                    failures.append(sentence_of(also))
            for unit, states in known.items():
                if "active" not in states:
                    self._stop(unit, self._host.ask)
            if known:
                self._host.ask("systemctl", "daemon-reload")
            for unit, states in known.items():
                for state, verb in (("enabled", "enable"), ("active", "start")):
                    if state in states:
                        self._host.ask("systemctl", verb, "--", unit)
            self._tidy()
            if failures:
                raise IsolationError(f"{sentence_of(error)}; what was written stays: {'; '.join(failures)}") from error
            raise

    def _state(self, unit: str) -> Set[str]:
        """The states of a unit in systemd's words, such as `active` and `enabled`."""
        state = self._host.ask("systemctl", "show", "--value", "-p", "UnitFileState,ActiveState", "--", unit)
        return set((state or "").split())

    def _tidy(self) -> None:
        """Remove directories that are left."""
        if self._check:
            return
        self._tidy_runner()
        hooks = HOOK.rpartition("/")[0]
        configured = [path for one in (LIBVIRT, PROXMOX) for path in (one.machines, one.configuration)]
        drop_ins = (f"{UNITS}/{name}" for name in self._host.list(UNITS) if re.match(r"vfio-isolation@.+\.d\Z", name))
        for directory in (*configured, CLAIMS, ROOT, hooks, *drop_ins):
            self._host.remove_empty(directory)

    def _tidy_runner(self) -> None:
        # Python knows a changed file by its size, which here is always the same, and by the second of its change.
        self._host.remove_tree(f"{RUNNER}/__pycache__")
        for place in (RUNNER, *(f"{RUNNER}/{name}" for name in self._host.directories(RUNNER) or ())):
            if not _below(self._host, place):
                self._host.remove_tree(place)  # what Python compiled

    def _reload_libvirt(self) -> None:
        if self._check:
            return
        for unit in DAEMONS:
            state = self._host.ask("systemctl", "show", "--value", "-p", "ActiveState", "--", unit)
            if (state or "").strip() == "active":
                self._host.change("systemctl", "reload", "--", unit)


def _in_order(changes: Sequence[Difference]) -> List[Difference]:
    """Write the hook last and remove it first: it needs the other files, whose paths sort behind its path.

    So does the file that says which version of the engine runs: a run that starts meanwhile has all of one version.
    """
    by_path = sorted(changes, key=lambda change: change.path)
    coming = [change for change in reversed(by_path) if change.after is not None]
    return coming + [change for change in by_path if change.after is None]


def _with_new_versions(paths: Iterable[str]) -> List[str]:
    """Paths with what a killed run has left beside them."""
    return [place for path in paths for place in (path, path + TEMPORARY_SUFFIX)]


def _above(path: str) -> List[str]:
    """The directories above a file."""
    names = path.split("/")
    return ["/".join(names[:depth]) for depth in range(2, len(names))]


def _present(host: Host, path: str) -> Optional[File]:
    mode = host.mode(path)
    return None if mode is None else File(host.read(path) or "", mode)


def _below(host: Host, place: str) -> List[str]:
    """The files below a directory, or the file itself, except what Python compiled."""
    below = host.directories(place)
    if below is None:
        return [place] if host.mode(place) is not None else []
    return [path for name in host.list(place) if name != "__pycache__" for path in _below(host, f"{place}/{name}")]
