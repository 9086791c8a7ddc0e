# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vfio-isolate 0.5.2 and this collection at the same jobs: the same outcome, and who gives everything back.

`parity/lines.py` lists the command lines with what is expected to differ, `parity/measure.py` runs them on a host.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible_collections.vfio.isolation.plugins.module_utils._engine.steps.catalog import STEPS
from ansible_collections.vfio.isolation.plugins.modules import restore

sys.path.insert(0, str(Path(__file__).parent))
from parity.lines import FORGOTTEN, LINES, Line, Pairs

if TYPE_CHECKING:
    from conftest import VirtualHost

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "coming-from-vfio-isolate.md"
# How each tool does it, not what: on v2 theirs enables the controller inside a cpuset, ours goes through systemd.
MECHANISM = ("controller ", "file ", "unit ")
# What the word of a key says in the table.
KINDS = {
    "affinity": "affinities",
    "cgroup2": "cgroups",
    "controller": "controllers",
    "governor": "governors",
    "irq": "interrupts",
    "place": "tasks",
}

Differences = dict[str, list[str | None]]
Measured = dict[str, dict[str, Any]]


def _bring_theirs(host: VirtualHost) -> VirtualHost:
    unpacked = ROOT / ".cache" / "bench" / "theirs"
    assert unpacked.is_dir(), f"{unpacked} must hold vfio-isolate; `make host` builds it"
    host.put({".": unpacked}, "/opt/theirs")
    return host


def _measure(host: VirtualHost, version: int) -> Measured:
    host.put({"parity": ROOT / "tests" / "host" / "parity"}, "/opt/parity")
    command = "cd /opt/parity && PYTHONPATH=/opt/isolation python3 -m parity.measure"
    done = host.run(command, timeout=1800)
    lines = done.stdout.splitlines()
    measured = {line["name"]: line for line in (json.loads(text) for text in lines if text.startswith('{"name"'))}
    assert done.returncode == 0, "\n".join(text for text in lines if not text.startswith('{"name"'))
    assert set(measured) == {line.name for line in LINES if line.version == version}
    return measured


@pytest.fixture(scope="session")
def with_theirs(host: VirtualHost) -> VirtualHost:
    """The host with cgroup v2, with vfio-isolate in /opt/theirs."""
    return _bring_theirs(host)


@pytest.fixture(scope="session")
def measured_v2(with_theirs: VirtualHost) -> Measured:
    """All lines for cgroup v2, run."""
    return _measure(with_theirs, 2)


@pytest.fixture(scope="session")
def measured_v1(v1_host: VirtualHost) -> Measured:
    """All lines for cgroup v1, run."""
    return _measure(_bring_theirs(v1_host), 1)


@pytest.fixture(scope="session")
def commands(with_theirs: VirtualHost) -> dict[str, list[list[str]]]:
    """Their commands with the options and arguments of each, as the program itself knows them."""
    ask = """if True:
        import json, click
        from vfio_isolate.cli import cli
        def spelled(command):
            for option in command.params:
                argument = isinstance(option, click.Argument)
                yield ["<" + option.name.replace("_", "-") + ">"] if argument else option.opts + option.secondary_opts
        print(json.dumps({name: list(spelled(c)) for name, c in [("vfio-isolate", cli), *cli.commands.items()]}))
    """
    done = with_theirs.run(f"cd /opt/theirs && python3 -c {shlex.quote(ask)}")
    assert done.returncode == 0, done.stdout
    found: dict[str, list[list[str]]] = json.loads(done.stdout)
    return found


def _of(version: int) -> list[Any]:
    return [pytest.param(line, id=line.name) for line in LINES if line.version == version]


@pytest.mark.parametrize("line", _of(2))
def test_on_v2(measured_v2: Measured, line: Line) -> None:
    """The same outcome on cgroup v2, or the difference that the line states; ours gives all back."""
    _compare(line, measured_v2[line.name])


@pytest.mark.parametrize("line", _of(1))
def test_on_v1(measured_v1: Measured, line: Line) -> None:
    """The same outcome on cgroup v1, or the difference that the line states; ours gives all back."""
    _compare(line, measured_v1[line.name])


def _compare(line: Line, measured: dict[str, Any]) -> None:
    assert "broken" not in measured, measured["broken"]
    assert line.why or not (line.crash or line.undo_crash or line.refusal or line.differs or line.left)
    _exits(line.crash, measured["their_codes"], measured["their_output"])
    _exits(line.undo_crash, measured["their_undo_codes"], measured["their_undo_output"])
    assert line.says in measured["their_output"]
    assert bool(line.refusal) == bool(measured["our_refusal"]), measured["our_refusal"]
    assert re.search(line.refusal, measured["our_refusal"])

    differs, left = (_on_this_kernel(pairs, measured) for pairs in (line.differs, line.left))
    _as_stated("after the command", _effect(measured["apart"]), differs)
    _as_stated("after their restore", measured["their_left"], left)
    assert measured["our_revert"] == "" and not measured["our_journal_left"]
    assert measured["our_left"] == {}, "after our revert"
    assert measured.get("prior_left", {}) == {}, "after restore with prior"
    assert ("prior_left" in measured) == line.by_prior

    if line.refusal:
        assert measured["we_did"] == {} and measured["our_events"] == []
    elif not line.idle:
        assert _effect(measured["we_did"])
    if line.idle:
        assert _effect(measured["they_did"]) == {} and measured["we_did"] == {}
    elif not line.crash:
        assert _effect(measured["they_did"])
    if not line.crash and not line.refusal:
        assert measured["our_events"] == measured["their_events"]
        words = " ".join(line.theirs).split()
        assert ("drop-caches" in words) == ("drop_pagecache" in measured["our_events"])
        assert ("compact-memory" in words) == ("compact_migrate_scanned" in measured["our_events"])


def _exits(crash: str, codes: list[int], output: str) -> None:
    """Crashed as stated, or not at all."""
    assert any(codes) == bool(crash), output
    assert re.search(crash, output), output


def _effect(differences: Differences) -> Differences:
    return {key: values for key, values in differences.items() if not key.startswith(MECHANISM)}


def _on_this_kernel(stated: Pairs, measured: dict[str, Any]) -> Pairs:
    """What is stated, with or without what a kernel before 6.2 forgets."""
    forgets = not measured["remembers_affinities"]
    return {
        key.removeprefix(FORGOTTEN): pair for key, pair in stated.items() if forgets or not key.startswith(FORGOTTEN)
    }


def _as_stated(when: str, found: Differences, stated: Pairs) -> None:
    """No difference that no pattern fits, no pattern that no difference fits."""
    used = set()
    wrong = []
    for key, values in found.items():
        pair = ["absent" if value is None else value for value in values]
        fitting = [
            pattern
            for pattern, expected in stated.items()
            if re.fullmatch(pattern, key)
            and all(re.fullmatch(one, value) for one, value in zip(expected, pair, strict=True))
        ]
        used.update(fitting)
        if not fitting:
            wrong.append(f"not stated: {key}: {pair}")
    wrong += [f"stated, but not so: {pattern}: {stated[pattern]}" for pattern in stated if pattern not in used]
    assert not wrong, "\n  ".join([f"{when}:", *wrong])


def test_every_command_and_option(commands: dict[str, list[list[str]]]) -> None:
    """The lines cover each command, and each option of one of the commands that share it in one of its spellings."""
    assert len(LINES) >= 25
    words = {word for line in LINES for command in (*line.theirs, *line.restores) for word in shlex.split(command)}
    # What `measure` adds to each line.
    words.add("--undo-file")
    spellings = {tuple(option) for options in commands.values() for option in options if option[0][0] == "-"}
    assert {command for command in commands if command not in words} == {"vfio-isolate"}
    lines = " ".join(command for line in LINES for command in line.theirs)
    for form in (
        r"C\d+(?![-\d,])",
        r"C\d+-\d+",
        r"C\d+(-\d+)?,\d+",
        r"N\d+(?![-\d,])",
        r"N\d+[-,]\d+",
        r"C[0-9a-f]{8}",
    ):
        assert re.search(rf"\b{form}", lines), f"no line has CPUs like {form}"
    on_and_off = [option for spelling in spellings for option in _on_and_off(spelling)]
    assert [option for option in on_and_off if not words.intersection(option)] == []


def _on_and_off(spelling: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The spellings of a flag's two directions."""
    off = tuple(word for word in spelling if word.startswith(("--no-", "-n")))
    on = tuple(word for word in spelling if word not in off)
    return [on, off] if off else [on]


def _amount(left: Differences) -> Counter[str]:
    """How many settings were not given back, by kind. A cpuset too many or too few is one, with all that is in it."""
    cpusets = {key.split()[1] for key in left if key.startswith("cpuset ") and key.endswith(" exists")}
    amount: Counter[str] = Counter()
    for key in left:
        word, name, *setting = key.split(" ")
        if word in ("cpuset", "controller") and name in cpusets:
            amount["cpusets"] += setting == ["exists"]
        elif word == "cpuset":
            amount["lists" if setting[0] in ("cpus", "mems") else "flags"] += 1
        else:
            amount[KINDS.get(word, word)] += 1
    return amount


def _shown(amount: Counter[str]) -> str:
    parts = ", ".join(f"{kind} {number}" for kind, number in sorted(amount.items()))
    return f"{amount.total()} ({parts})" if parts else "0"


def test_table(measured_v2: Measured, measured_v1: Measured) -> None:
    """Write who gave back what, as the document has it; the document has these lines, and a zero where there is one."""
    rows = []
    totals: dict[str, Counter[str]] = {"theirs": Counter(), "ours": Counter()}
    for line in LINES:
        measured = (measured_v2 if line.version == 2 else measured_v1)[line.name]
        amounts = {"theirs": _amount(measured["their_left"]), "ours": _amount(measured["our_left"])}
        for who, amount in amounts.items():
            totals[who] += amount
        rows.append((line.name, f"v{line.version}", _shown(amounts["theirs"]), _shown(amounts["ours"])))
    rows.append((f"all {len(LINES)} lines", "", _shown(totals["theirs"]), _shown(totals["ours"])))
    head = [("line", "cgroup", "settings that `vfio-isolate restore` did not give back", "here"), ("---",) * 4]
    (ROOT / ".cache" / "parity.md").write_text("\n".join(f"| {' | '.join(row)} |" for row in head + rows) + "\n")
    assert totals["ours"].total() == 0
    written = {(row[0], row[1]): row for row in _tables(DOCUMENT.read_text()) if row[1] in ("v1", "v2", "")}
    assert list(written) == [row[:2] for row in rows], "the document's table has other lines"
    for row in rows:
        was = written[row[:2]]
        assert (was[2] == "0", was[3]) == (row[2] == "0", "0"), (was, row)


def _tables(text: str) -> list[list[str]]:
    """The rows of all tables with more than three columns."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return [row for row in cells if len(row) == 4 and row[0] != "line"]


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_document_knows_every_option(commands: dict[str, list[list[str]]]) -> None:
    """The document has each command, option and argument, in each spelling, and YAML with options that exist."""
    known = {name: set(step.ARGUMENTS) for name, step in STEPS.items()}
    known["restore"] = set(restore.ARGUMENTS)
    known["transaction"] = {"claim", "steps"}
    written: set[tuple[str, str]] = set()
    section = DOCUMENT.read_text().split("## Commands and options")[1].split("\n## ")[0]
    for text in (line for line in section.splitlines() if line.startswith("| `")):
        theirs, options, here = (cell.strip() for cell in text.strip("|").split(" | "))
        written.update((command, "") for command in _code(theirs))
        written.update((command, option) for command in _code(theirs) for option in _code(options))
        for code in _code(here):
            parsed = yaml.safe_load(code)
            if isinstance(parsed, dict):
                ((module, given),) = parsed.items()
                assert set(given) <= known[module], code
    wanted = {(command, "") for command in commands}
    wanted |= {(name, word) for name, options in commands.items() for option in options for word in option}
    assert wanted - {("vfio-isolate", "--help")} == written - {("vfio-isolate", "--help")}


def test_document_names_what_differs() -> None:
    """Each line where theirs crashes, is wrong, or differs from ours stands in the document's list."""
    section = DOCUMENT.read_text().split("## Where they differ")[1].split("\n## ")[0]
    rows = section.split("|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    named = {name.strip() for row in rows for name in row.strip("| ").split("|")[-1].split(";")}
    assert named == {f"{line.name} (v{line.version})" for line in LINES if line.why}


def test_document_names_the_examples() -> None:
    """Each example playbook stands in the document, and the document names no other."""
    there = {path.name for path in (ROOT / "playbooks" / "examples").glob("*.yml")}
    assert set(re.findall(r"playbooks/examples/([\w-]+\.yml)", DOCUMENT.read_text())) == there
