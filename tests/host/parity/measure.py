# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the lines on a virtual host, theirs and ours from the same ground: `python3 -m parity.measure NAME...`.

One JSON object a line: what each tool changed, how the two outcomes differ, what each failed to give back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from module_utils._engine.errors import IsolationError
from module_utils._engine.kernel.host import Host
from module_utils._engine.model import Step
from module_utils._engine.steps.catalog import complete
from module_utils._engine.transaction.engine import Engine

from . import kernel
from .lines import LINES, Line
from .theirs import VfioIsolate

WORK = Path("/run/parity")
JOURNAL = Path("/run/vfio-isolation/journal.json")
# For the set-up: a cpuset with its lists, a process (bound to CPUs with taskset) in one.
SHELL = """set -eu
exec </dev/null >/dev/null
cpuset() {
    mkdir -p "$ROOT$1"
    if [ -n "${3-}" ]; then echo "$3" > "$ROOT$1/cpuset.mems"; fi
    if [ -n "${2-}" ]; then echo "$2" > "$ROOT$1/cpuset.cpus"; fi
}
flag() { echo "$3" > "$ROOT$1/cpuset.$2"; }
start() {
    where=$1; shift
    sh -c 'echo $$ > "$0"; exec "$@"' "$ROOT$where/cgroup.procs" "$@" & echo $! >> "$WORK/pids"
    while grep -q -e sh -e taskset "/proc/$!/comm"; do sleep 0.05; done
}
controller() { echo +cpuset > "$ROOT${1-}/cgroup.subtree_control"; }
governor() { echo "$1" > "/sys/devices/system/cpu/cpufreq/$2/scaling_governor"; }
fill() {
    start "$1" taskset -c 4-7 python3 -c 'filled = b"x" * (50 << 20); __import__("time").sleep(1000)'
    until grep -q 'N1=1[23][0-9][0-9][0-9]' "/proc/$!/numa_maps"; do sleep 0.1; done
}
"""


def engine() -> Engine:
    """A new engine, as each run has."""
    return Engine(Host(), 30.0)


def steps_of(claim: tuple[dict[str, dict[str, Any]], ...]) -> list[Step]:
    """The steps of a claim, with the defaults of their modules."""
    return [Step(name, complete(name, given)) for step in claim for name, given in step.items()]


def set_up(line: Line, root: str) -> None:
    """The ground that a line needs besides the host's own."""
    environment = {**os.environ, "ROOT": root.rstrip("/"), "WORK": str(WORK)}
    subprocess.run(["sh", "-c", SHELL + line.setup], check=True, env=environment)


def end_processes() -> None:
    """End what the set-up started."""
    pids = WORK / "pids"
    for pid in pids.read_text().split() if pids.exists() else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), 9)
        while Path(f"/proc/{pid}/stat").exists() and ") Z " not in kernel.read(f"/proc/{pid}/stat"):
            time.sleep(0.02)
    pids.unlink(missing_ok=True)


def their_part(line: Line, theirs: VfioIsolate, measured: dict[str, Any]) -> tuple[kernel.State, kernel.State]:
    """Run theirs and their restore. Returns the states after each."""
    began = kernel.events()
    outputs = []
    for number, command in enumerate(line.theirs):
        outputs.append(theirs.run(["-u", f"{WORK}/undo{number}", *shlex.split(command)]))
    measured["their_codes"] = [output["code"] for output in outputs]
    measured["their_output"] = "".join(output["output"] for output in outputs)
    now = kernel.events()
    measured["their_events"] = [name for name in now if now[name] > began[name]]
    after = kernel.snapshot()
    undone = []
    for command in line.restores:
        if Path(shlex.split(command)[-1]).exists():
            undone.append(theirs.run(shlex.split(command)))
    measured["their_undo_codes"] = [output["code"] for output in undone]
    measured["their_undo_output"] = "".join(output["output"] for output in undone)
    return after, kernel.snapshot()


def our_part(line: Line, measured: dict[str, Any]) -> tuple[kernel.State, kernel.State]:
    """Run ours and our revert. Returns the states after each."""
    began = kernel.events()
    refused = ""
    skipped: dict[str, str] = {}
    for number, claim in enumerate(line.ours):
        try:
            skipped.update(engine().apply(f"claim{number}", steps_of(claim)).skipped)
        except IsolationError as error:
            refused = str(error)
    measured.update(our_refusal=refused, our_skipped=skipped)
    now = kernel.events()
    measured["our_events"] = [name for name in now if now[name] > began[name]]
    after = kernel.snapshot()
    try:
        for number in line.reverts:
            engine().revert([f"claim{number}"])
        measured["our_revert"] = ""
    except IsolationError as error:
        measured["our_revert"] = str(error)
    measured["our_journal_left"] = JOURNAL.exists()
    return after, kernel.snapshot(units=True)


def prior_part(line: Line) -> kernel.State:
    """The same by the single modules' door: no claim, and `restore` with what each returned as `prior`."""
    outcomes = [engine().once(step) for step in steps_of(line.ours[0])]
    for outcome in reversed(outcomes):
        engine().restore_prior(outcome.prior)
    return kernel.snapshot(units=True)


def forget_ours() -> None:
    """Where our own revert failed: no claim and no drop-in may spoil the next line."""
    if JOURNAL.exists() or any(Path(root).exists() and any(Path(root).iterdir()) for root in kernel.DROP_INS[:1]):
        JOURNAL.unlink(missing_ok=True)
        subprocess.run(["rm", "-rf", kernel.DROP_INS[0]], check=True)
        subprocess.run(["systemctl", "daemon-reload"], check=True)


def measure(line: Line, theirs: VfioIsolate, root: str) -> dict[str, Any]:
    """One line, from set-up to the ground that there was before."""
    measured: dict[str, Any] = {"name": line.name, "remembers_affinities": kernel.remembers_affinities()}
    began = time.monotonic()
    subprocess.run(f"rm -rf {WORK} && mkdir {WORK}", shell=True, check=True)
    ground = now = kernel.snapshot(units=True)
    try:
        set_up(line, root)
        before = now = kernel.snapshot(units=True) if line.setup else ground
        after_theirs, now = their_part(line, theirs, measured)
        measured["their_left"] = kernel.settings(before, now)
        kernel.reset(before, now)
        after_ours, now = our_part(line, measured)
        measured["our_left"] = kernel.settings(before, now)
        if line.by_prior:
            kernel.reset(before, now)
            now = prior_part(line)
            measured["prior_left"] = kernel.settings(before, now)
        measured["they_did"] = kernel.differences(before, after_theirs)
        measured["we_did"] = kernel.differences(before, after_ours)
        measured["apart"] = kernel.differences(after_theirs, after_ours)
    except Exception:
        measured["broken"] = traceback.format_exc()
        now = kernel.snapshot()
    finally:
        end_processes()
        forget_ours()
        kernel.reset(ground, kernel.snapshot() if line.setup or measured.get("our_left") else now)
    measured["seconds"] = round(time.monotonic() - began, 1)
    return measured


def spread_interrupts() -> None:
    """Some on a node, some on one CPU, as irqbalance leaves them, but the same each time."""
    for number in sorted(filter(str.isdigit, os.listdir("/proc/irq")), key=int):
        if any(path.is_dir() for path in Path(f"/proc/irq/{number}").iterdir()):
            cpus = ("0-3", "4-7", "5", "1")[int(number) % 4]
            with contextlib.suppress(OSError):  # managed
                kernel.write(f"/proc/irq/{number}/smp_affinity_list", cpus)


@contextlib.contextmanager
def controller() -> Iterator[None]:
    """A unit that is given the cpuset controller, as a VM's scope is: systemd enables it from the root down."""
    unit = "parity-controller"
    properties = ["--slice=parity.slice", "--property=Delegate=cpuset"]
    subprocess.run(["systemd-run", "--quiet", f"--unit={unit}", *properties, "sleep", "infinity"], check=True)
    try:
        yield
    finally:
        subprocess.run(["systemctl", "stop", unit, "parity.slice"], check=True)


def main(names: list[str]) -> None:
    """Measure the named lines, or all of this host's cgroup version."""
    hierarchy = kernel.Hierarchy()
    subprocess.run(["systemctl", "stop", "irqbalance"], check=True)
    found = kernel.snapshot()
    spread_interrupts()
    stock = VfioIsolate()
    helped = VfioIsolate(cpuset_first=True) if hierarchy.version == 1 else stock
    chosen = [line for line in LINES if line.version == hierarchy.version and (not names or line.name in names)]

    def tell(with_controller: bool) -> None:
        for line in chosen:
            if line.controller == with_controller:
                measured = measure(line, stock if line.stock else helped, hierarchy.root)
                print(json.dumps(measured), flush=True)

    tell(False)
    if any(line.controller for line in chosen):
        with controller():
            tell(True)
    stock.close()
    if helped is not stock:
        helped.close()
    for number in (key for key in found if key.startswith("irq ") and key != "irq default"):
        with contextlib.suppress(OSError):
            kernel.write(f"/proc/irq/{number.split()[1]}/smp_affinity_list", found[number])


if __name__ == "__main__":
    main(sys.argv[1:])
