# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The same tests on several Debians, one virtual host after the other: matrix.py SUITE...

It prints a table, and replaces the rows of these suites in docs/tested.md. It ends with 1 if a test has failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "virtual_host"))

from virtual_host import SUITES, VirtualHost  # noqa: E402  (the line above makes it importable)

TESTED = ROOT / "docs" / "tested.md"
RESULTS = ROOT / ".cache" / "matrix"
# What is run, by the names of tests; each is on the table with what it is called here.
TESTS = {
    "the playbooks": "test_isolate_audit_revert",
    "strategies": "isolation-partition or isolation-slices",
    "second run": "isolation-second_run_writes_nothing",
    "check mode": "isolation-announces_exactly",
    "revert to the byte": "isolation-revert",
    "partitions that fail": "isolation-invalid or isolation-rolls or isolation-cpu_that",
    "systemd lives on": "systems",
    "affinities": "affinities",
    "SIGKILL": "kills-killed_under_slices or kills-killed_while",
    "irqbalance": "irqbalance_keeps_off",
    "VMs of libvirt": "libvirt-start_and_destroy or libvirt-two_in_every_order or libvirt-two_at_the_same",
}
NOT_HERE = "-v1"  # what needs a host with cgroup v1
HEAD = ("Debian", "Linux", "systemd", "libvirt", "Python", *TESTS, "what is not there, and why")
VERSIONS = (
    "uname -r; systemctl --version | sed -n 's/^systemd \\([0-9]*\\).*/\\1/p';"
    " libvirtd --version | sed 's/.* //'; python3 -V | sed 's/.* //'"
)


class Row(NamedTuple):
    """What came of one suite."""

    cells: tuple[str, ...]
    passed: bool


def main(suites: list[str]) -> int:
    """Run the suites; their rows are kept as soon as each has ended."""
    unknown = set(suites) - set(SUITES)
    if unknown:
        print(f"there is no suite {', '.join(sorted(unknown))}, only {', '.join(SUITES)}", file=sys.stderr)
        return 2
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = {}
    for suite in suites:
        rows[suite] = _run(suite)
        _keep(rows[suite])
    print(_table([row.cells for row in rows.values()]))
    return 0 if all(row.passed for row in rows.values()) else 1


def _run(suite: str) -> Row:
    host = VirtualHost(f"matrix-{suite}")
    host.start("libvirt", suite)
    try:
        asked = subprocess.run([*host.ssh_command(), VERSIONS], stdout=subprocess.PIPE, text=True, check=True)
        found, passed = _tests(suite, str(host.inventory))
    finally:
        host.stop()
    reasons = sorted({reason for _name, result, reason in found if result == "skipped"})
    results = ([result for name, result, _why in found if _is_one_of(name, words)] for words in TESTS.values())
    return Row((suite, *asked.stdout.split(), *map(_outcome, results), "; ".join(reasons) or "all is there"), passed)


def _tests(suite: str, inventory: str) -> tuple[list[tuple[str, str, str]], bool]:
    """The name, the result and the reason of each test; whether all are well."""
    report = RESULTS / f"{suite}.xml"
    environment = {**os.environ, "VFIO_INVENTORY": inventory, "VFIO_LIBVIRT_INVENTORY": inventory}
    expression = f"({' or '.join(TESTS.values())}) and not {NOT_HERE}"
    command = ["pytest", "-rs", "--junitxml", str(report), "-k", expression, "tests/host"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        result = next((one for one in case if one.tag in ("failure", "error", "skipped")), None)
        reason = "" if result is None else result.get("message", "")
        found.append((case.get("name", ""), "passed" if result is None else result.tag, reason))
    return found, done.returncode == 0


def _is_one_of(name: str, words: str) -> bool:
    return any(word in name for word in words.split(" or "))


def _outcome(results: list[str]) -> str:
    passed, skipped = results.count("passed"), results.count("skipped")
    if len(results) > passed + skipped:
        return f"{len(results) - passed - skipped} of {len(results)} failed"
    return str(passed) if passed else "none"


def _keep(row: Row) -> None:
    """Write the row into the document, in the order of the suites."""
    text = TESTED.read_text(encoding="utf-8")
    rows = {cells[0]: cells for cells in map(_cells, text.splitlines()) if cells and cells[0] in SUITES}
    rows[row.cells[0]] = row.cells
    before = text[: text.index("| Debian |")]
    TESTED.write_text(before + _table([rows[suite] for suite in SUITES if suite in rows]) + "\n", encoding="utf-8")


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip("|").split("|")) if line.startswith("| ") else ()


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *lines = (f"| {' | '.join(cells)} |" for cells in (HEAD, *rows))
    return "\n".join([head, "|---" * len(HEAD) + "|", *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(SUITES)))
