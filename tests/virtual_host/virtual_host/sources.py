# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where this machine's own apt configuration gets Debian from: images are built from the same mirrors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .errors import VirtualHostError
from .recipe import SUITES

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class _Source(NamedTuple):
    uri: str
    suite: str
    components: str
    signed_by: str


def debian_sources(suite: str, apt: Path = Path("/etc/apt")) -> list[str]:
    """Give the sources.list lines of Debian `suite` with its updates, as the directory `apt` configures them.

    If it configures another suite only, its mirrors serve this one, too.
    """
    mirrors = [
        source
        for source in _sources(apt)
        if "main" in source.components.split()
        and (not source.signed_by or "debian-archive" in source.signed_by)  # nobody else's repository
    ]
    configured = [one for one in (suite, *SUITES) if any(source.suite == one for source in mirrors)]
    if not configured:
        message = f"{apt} configures no source of Debian (main), which the image is built from."
        raise VirtualHostError(message)
    kinds = ("", "-updates", "-security")
    suites = {configured[0] + kind: suite + kind for kind in kinds}
    return sorted(
        f"deb [signed-by={_KEYRING}] {source.uri} {suites[source.suite]} main"
        for source in mirrors
        if source.suite in suites
    )


def _sources(apt: Path) -> Iterator[_Source]:
    for path in (apt / "sources.list", *apt.glob("sources.list.d/*.list")):
        if path.exists():
            yield from _one_line_style(path.read_text(encoding="utf-8"))
    for path in apt.glob("sources.list.d/*.sources"):
        yield from _deb822_style(path.read_text(encoding="utf-8"))


def _one_line_style(text: str) -> Iterator[_Source]:
    """Read lines of `deb [option=value ...] URI SUITE COMPONENT...`, see sources.list(5)."""
    line = re.compile(r"^\s*deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)([^#\n]*)", re.MULTILINE)
    for options, uri, suite, rest in line.findall(text):
        signed_by = re.search(r"signed-by=(\S+)", options)
        yield _Source(uri, suite, rest, signed_by[1] if signed_by else "")


def _deb822_style(text: str) -> Iterator[_Source]:
    """Read stanzas of `Field: value` lines, a value may go on in indented lines, see sources.list(5)."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        found = re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        fields = {name.lower(): value for name, value in found}
        if fields.get("enabled", "").strip() == "no" or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield _Source(uri, suite, fields.get("components", ""), fields.get("signed-by", ""))
