# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tasks that move: all of them, however many and however fast they fork, and back with their children."""

from __future__ import annotations

import os
import re
import subprocess
import time

from .ground import CGROUP, at_end, engine, process, read, revert, snapshot, step, unchanged, write

V1 = os.path.exists(f"{CGROUP}/cpuset/tasks")
ROOT = f"{CGROUP}/cpuset" if V1 else CGROUP
LIST = "tasks" if V1 else "cgroup.procs"
PROGRAMS = "/opt/isolation/programs"
# A thousand a second are caught in test__native_cpuset.py. Here all is emulated and ten times as slow, so these are as
# many as leave the engine the same share of a process's life.
STORM = {"rate": 100, "seconds": 10}


def _make(*names: str) -> None:
    for name in names:
        os.mkdir(f"{ROOT}/{name}")
        at_end(lambda name=name: (_empty(name), os.rmdir(f"{ROOT}/{name}")))
        for file in ("cpuset.mems", "cpuset.cpus") if V1 else ():
            write(f"{ROOT}/{name}/{file}", read(f"{ROOT}/{file}"))


def _tasks(name: str) -> set[int]:
    return {int(task) for task in read(f"{ROOT}/{name}/{LIST}").split()}


def _start_in(name: str, *argv: str, **given: object) -> subprocess.Popen:
    unlimited = "echo $$ > /sys/fs/cgroup/pids/tasks;" if V1 else ""  # systemd bounds what a session may fork
    enter = f'{unlimited} echo $$ > {ROOT}/{name}/cgroup.procs; exec "$@"'
    child = subprocess.Popen(
        ["/bin/sh", "-c", enter, "sh", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **given
    )
    at_end(lambda: (child.kill(), child.wait(), child.stdout.close(), child.stdin.close()))
    while child.pid not in _tasks(name):
        assert child.poll() is None, "it has ended before it was there"
        time.sleep(0.01)
    return child


def _empty(name: str) -> None:
    deadline = time.monotonic() + 60
    while _tasks(name):
        assert time.monotonic() < deadline, f"{name} still has {len(_tasks(name))} tasks"
        time.sleep(0.1)


def _all_in(name: str, storm: subprocess.Popen) -> None:
    """As long as it rages, all of a storm is in one cgroup of the two."""
    (other,) = {"storm", "shelter"} - {name}
    while storm.poll() is None:
        left = [(task, read(f"/proc/{task}/stat")) for task in _tasks(other)]
        assert not left, left
        assert _tasks(name) or storm.wait() == 0
        time.sleep(0.05)


def check_fork_storm() -> None:
    """Processes that are gone before an old list of ids could catch them: none is left outside."""
    _make("storm", "shelter")
    storm = _start_in("storm", f"{PROGRAMS}/storm", "8", str(STORM["rate"]), str(STORM["seconds"]))
    time.sleep(1)
    began = time.monotonic()
    outcome = engine().apply("host", [step("move_tasks", source="/storm", target="/shelter")])
    spent = time.monotonic() - began
    assert not outcome.warnings, outcome.warnings
    _all_in("shelter", storm)
    forked = int(storm.stdout.read())
    print(f"{forked} processes in {STORM['seconds']} s; moved in {spent:.2f} s, {len(outcome.changes)} of them")
    assert forked >= 0.5 * STORM["rate"] * STORM["seconds"]
    revert()


def check_storm_goes_home() -> None:
    """While they fork, a revert takes them all back, children and orphans alike."""
    _make("storm", "shelter")
    # In a process group of its own, which leads an orphan whose parent has ended home, whoever else is there.
    storm = _start_in("storm", f"{PROGRAMS}/storm", "8", str(STORM["rate"]), "5", start_new_session=True)
    engine().apply("host", [step("move_tasks", source="/storm", target="/shelter")])
    assert not _tasks("storm")
    time.sleep(1)
    revert()
    _all_in("storm", storm)


def check_children_come_back() -> None:
    """What was moved comes back with its children; what was in the target before stays, with its own."""
    _make("from", "to")
    script = "sleep 1000 & while :; do sleep 0.5; sleep 1000 & done"
    there = _start_in("to", "/bin/sh", "-c", script, start_new_session=True)
    time.sleep(1)
    moved = _start_in("from", "/bin/sh", "-c", script, start_new_session=True)
    at_end(lambda: [os.kill(task, 9) for name in ("from", "to") for task in _tasks(name)])
    time.sleep(1)
    engine().apply("host", [step("move_tasks", source="/from", target="/to")])
    assert not _tasks("from")
    time.sleep(1)
    revert()
    for name, first in (("from", moved), ("to", there)):
        tasks = _tasks(name)
        assert len(tasks) >= 3 and {os.getsid(task) for task in tasks} == {first.pid}, (name, tasks)


def check_thousands() -> None:
    """Ten thousand tasks on v1, two thousand on v2, in one call, and back."""
    number = 10_000 if V1 else 2_000
    _make("from", "to")
    sleepers = _start_in("from", f"{PROGRAMS}/sleepers", str(number))
    assert sleepers.stdout.readline() == "ready\n"
    all_of_them = _tasks("from")
    assert len(all_of_them) == number + 1
    at_end(lambda: (sleepers.stdin.close(), sleepers.wait()))
    began = time.monotonic()
    outcome = engine().apply("host", [step("move_tasks", source="/from", target="/to")])
    moved = time.monotonic()
    assert len(outcome.changes) == number + 1 and _tasks("to") == all_of_them and not _tasks("from")
    assert not engine().apply("host", [step("move_tasks", source="/from", target="/to")]).changed
    again = time.monotonic()
    revert()
    print(f"moved in {moved - began:.1f} s, and back in {time.monotonic() - again:.1f} s")
    assert _tasks("from") == all_of_them


def check_kernel_threads_only_when_asked() -> None:
    """Kernel threads stay; when asked, those move that can, the others are counted by reason; and all come back."""
    _make("kernel")
    before = snapshot()
    asked = engine().apply("host", [step("move_tasks", source="/", target="/kernel", kernel_threads=True)])
    kernel = {task for task in _tasks("kernel") if not read(f"/proc/{task}/cmdline")}
    assert kernel
    reasons = asked.skipped["task.cgroup:/"]
    counted = re.fullmatch(r"(\d+) kernel threads are bound to their CPUs by the kernel", reasons)
    assert counted, reasons
    bound = len(_tasks(""))  # nothing else is left there; those of workqueues come and go
    assert bound > 20 and abs(int(counted[1]) - bound) <= 10, (reasons, bound)
    revert()
    unchanged(before)
    engine().apply("host", [step("move_tasks", source="/", target="/kernel")])
    assert not {task for task in _tasks("kernel") if not read(f"/proc/{task}/cmdline")}
    revert()
    unchanged(before)


def check_one_pass_without_a_claim() -> None:
    """Without a claim everything is moved as well, and the prior values lead back."""
    _make("from", "to")
    task = process()
    write(f"{ROOT}/from/{LIST}", str(task))
    outcome = engine().once(step("move_tasks", source="/from", target="/to"))
    assert _tasks("to") == {task} and len(outcome.prior) == 1
    engine().restore_prior(outcome.prior)
    assert _tasks("from") == {task}
