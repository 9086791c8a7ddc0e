# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cgroup v1 on the kernel of this machine, in a corner of its own: the whole engine, with nothing modelled."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, List, Set

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Step
from ansible_collections.vfio.isolation.plugins.module_utils._engine.steps.catalog import STEPS
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction import sweep
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine, Outcome
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import kill_at
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Killed
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.transaction.native_cpuset import (
    V2,
    Corner,
    corner,
    mounted,
    until,
)
from hypothesis import given
from hypothesis import strategies as st

NO_V1 = "this machine has no cgroup v1 cpuset hierarchy that may be written, or one CPU only"
pytestmark = pytest.mark.skipif(not mounted() or len(os.sched_getaffinity(0)) < 2, reason=NO_V1)

NO_GCC = "this machine has no gcc to compile tests/host/programs/storm.c"
NO_V2 = "this machine has no cgroup v2 hierarchy that may be written"
FORKS = "while :; do sleep 0.01 & wait; done"


def step(name: str, **given: Any) -> Step:
    """A step with its defaults filled in."""
    spec = STEPS[name].ARGUMENTS
    assert set(given) <= set(spec), given
    return Step(name, {option: given.get(option, spec[option].get("default")) for option in spec})


def apply(host: Corner, *steps: Step, claim: str = "vm") -> Outcome:
    """Make a claim of these steps."""
    return Engine(host).apply(claim, steps)


def revert(host: Corner, *claims: str) -> Outcome:
    """Give claims back; all where none is named."""
    return Engine(host).revert(list(claims) or None)


def vm_and_host(host: Corner) -> List[str]:
    """One CPU for the VM, the others for the host."""
    cpus = sorted(os.sched_getaffinity(0) & {int(c) for c in _numbers(host.cpus)})
    return [str(cpus[-1]), ",".join(map(str, cpus[:-1]))]


def _numbers(text: str) -> Set[int]:
    found: Set[int] = set()
    for part in filter(None, text.split(",")):
        low, _dash, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


def unchanged(host: Corner, before: Any) -> None:
    """Fail unless the corner is as before."""
    after = host.snapshot()
    keys = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    assert not keys, {key: (before.get(key), after.get(key)) for key in keys}


def test_a_cpuset_is_made_with_what_its_parent_has_and_goes_again() -> None:
    with corner() as host:
        before = host.snapshot()
        apply(host, step("cpuset", path="/a/b"))
        for path in ("/a", "/a/b"):
            assert host.get(f"{path}/cpuset.cpus") == host.cpus
            assert host.get(f"{path}/cpuset.mems") == host.get("/cpuset.mems")
        assert not apply(host, step("cpuset", path="/a/b")).changed
        revert(host)
        unchanged(host, before)


def test_a_cpuset_that_was_empty_is_empty_again() -> None:
    with corner() as host:
        os.mkdir(host.mount + "/a")
        before = host.snapshot()
        apply(host, step("cpuset", path="/a", cpus=host.cpus))
        assert host.get("/a/cpuset.mems") == host.get("/cpuset.mems")
        revert(host)
        unchanged(host, before)


@pytest.mark.parametrize("flag", ["mem_hardwall", "memory_migrate", "sched_load_balance"])
@pytest.mark.parametrize("value", [True, False])
def test_a_flag_is_set_and_given_back_as_it_was(flag: str, value: bool) -> None:
    with corner() as host:
        for was in ("0", "1"):
            host.make(f"/was{was}")
            host.put(f"/was{was}/cpuset.{flag}", was)
            before = host.snapshot()
            outcome = Engine(host).once(step("cpuset", path=f"/was{was}", **{flag: value}))
            assert host.get(f"/was{was}/cpuset.{flag}") == str(int(value))
            assert outcome.changed == (int(value) != int(was))
            Engine(host).restore_prior(outcome.prior)
            unchanged(host, before)


def test_a_cpuset_is_removed_with_its_children_and_comes_back_with_its_tasks() -> None:
    with corner() as host:
        host.make("/a")
        host.make("/a/b")
        host.put("/a/b/cpuset.memory_migrate", "1")
        host.put("/a/b/cpuset.sched_load_balance", "0")
        tasks = {host.start("/a"), host.start("/a/b")}
        before = host.snapshot()
        apply(host, step("cpuset", path="/a", state="absent"))
        assert not os.path.exists(host.mount + "/a") and tasks <= host.tasks()
        revert(host)
        unchanged(host, before)


def test_what_the_kernel_would_refuse_is_said_before_anything_is_done() -> None:
    with corner() as host:
        vm, rest = vm_and_host(host)
        host.make("/a")
        host.put("/a/cpuset.cpus", rest)
        host.make("/a/b")
        before = host.snapshot()
        for given, words in (
            ({"path": "/a/c", "cpus": vm}, f"cpus: /a/c cannot have {vm}, which its parent /a does not have ({rest})"),
            ({"path": "/a", "cpus": vm}, f"cpus: /a cannot lose {rest}, which /a/b below it has"),
            ({"path": "/a", "partition": "isolated"}, "cgroup v1, which has no partitions"),
            ({"path": "/", "cpus": vm}, "name a cgroup below it"),
        ):
            with pytest.raises(IsolationError) as refused:
                apply(host, step("cpuset", **given))
            assert words in str(refused.value)
        os.mkdir(host.mount + "/empty")
        with pytest.raises(IsolationError, match="/empty has no cpus and takes no task"):
            apply(host, step("move_tasks", source="/a", target="/empty"))
        os.rmdir(host.mount + "/empty")
        unchanged(host, before)


def test_strategy_tasks_leaves_the_cpus_to_the_vm_and_gives_everything_back() -> None:
    with corner() as host:
        vm, rest = vm_and_host(host)
        host.make("/machine.slice")
        host.make("/docker")
        host.make("/docker/x")
        guest = host.start("/machine.slice", vm)
        container = host.start("/docker/x")
        free, on_vm, on_host = host.start(), host.start("", vm), host.start("", rest)
        before = host.snapshot()
        outcome = apply(host, step("reserve_cpus", cpus=vm))
        assert outcome.notes["strategy"] == "tasks"
        for task in (container, free, on_vm, on_host):
            assert os.sched_getaffinity(task) == _numbers(rest)
        assert os.sched_getaffinity(guest) == _numbers(vm)
        assert host.tasks("/host.slice") == {free, on_vm, on_host} and not host.tasks()
        assert not apply(host, step("reserve_cpus", cpus=vm)).changed
        revert(host)
        unchanged(host, before)


FORK_CHILDREN = "while :; do sleep 0.2; sleep 1000 & done"
FORK_ORPHANS = "while :; do sleep 0.2; (sleep 1000 & sleep 1000 &); done"
FORK_DAEMONS = "while :; do sleep 0.2; (setsid sh -c 'sleep 1000 &'); done"


def _session(host: Corner, cgroup: str, leader: int) -> Set[int]:
    """The lasting tasks of a process that was started, itself among them."""
    return {task for task in host.lasting(cgroup) if os.getsid(task) == leader}


def test_those_that_were_moved_come_back_with_their_children_and_nobody_else() -> None:
    with corner() as host:
        host.make("/a")
        host.make("/b")
        residents = {host.start("/b", script=script) for script in (FORK_CHILDREN, FORK_ORPHANS)}
        until(lambda: all(len(_session(host, "/b", forker)) > 2 for forker in residents))
        moved = {host.start("/a", script=script) for script in (FORK_CHILDREN, FORK_ORPHANS)}
        apply(host, step("move_tasks", source="/a", target="/b"))
        assert not host.tasks("/a")
        until(lambda: all(len(_session(host, "/b", forker)) > 3 for forker in residents | moved))
        stranger = host.start("/b")
        assert len(host.tasks("/b")) > 12
        revert(host)
        back, stayed = host.lasting("/a"), host.lasting("/b")
        for task in back | stayed:  # a task's session leads to who forked it, here
            assert os.getsid(task) in (moved if task in back else {*residents, stranger})
        assert moved <= back and {*residents, stranger} <= stayed


def test_daemons_of_those_that_were_moved_come_back_where_nobody_else_was() -> None:
    with corner() as host:
        host.make("/a")
        host.make("/b")
        moved = host.start("/a", script=FORK_DAEMONS)
        apply(host, step("move_tasks", source="/a", target="/b"))
        until(lambda: len(host.lasting("/b")) > 3)
        stranger = host.start("/b")
        daemons = {task for task in host.lasting("/b") if os.getsid(task) not in (moved, stranger)}
        assert daemons
        revert(host)
        assert {moved, *daemons} <= host.tasks("/a") and host.tasks("/b") == {stranger}


def test_a_task_that_went_elsewhere_meanwhile_stays_there() -> None:
    with corner() as host:
        for name in ("/a", "/b", "/c"):
            host.make(name)
        task = host.start("/a")
        apply(host, step("move_tasks", source="/a", target="/b"))
        host.put("/c/tasks", str(task))
        revert(host)
        assert host.tasks("/c") == {task}


def test_a_reused_id_is_not_touched() -> None:
    with corner() as host:
        host.make("/a")
        host.make("/b")
        task = host.start("/a")
        apply(host, step("move_tasks", source="/a", target="/b"))
        journal = os.path.join(host.own, "journal.json")
        with open(journal, encoding="utf-8") as stream:
            text = stream.read()
        assert f"task.cgroup:{task}:" in text
        with open(journal, "w", encoding="utf-8") as stream:  # as if another had this id when tasks were moved
            stream.write(text.replace(f"task.cgroup:{task}:", f"task.cgroup:{task}:1"))
        revert(host)
        assert host.tasks("/b") == {task}


def test_a_fork_storm_is_caught() -> None:
    with corner() as host:
        host.make("/a")
        host.make("/b")
        for _number in range(4):
            host.start("/a", script=FORKS)
        apply(host, step("move_tasks", source="/a", target="/b"))
        assert not host.tasks("/a")
        revert(host)
        assert not host.tasks("/b")


def test_where_moving_is_given_up_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with corner() as host:
        _made(host, "/a", "/b")
        host.start("/a")
        monkeypatch.setattr(sweep, "ROUNDS", 0)
        (warning,) = apply(host, step("move_tasks", source="/a", target="/b")).warnings
        assert warning == "/a: tasks kept forking there: gave up moving them after 0 rounds"


def _all_in(there: str, other: str, host: Corner) -> None:
    """Look until a hundred processes have been there; where the storm is over, nothing is."""
    seen: Set[int] = set()
    while len(seen) < 100:
        assert not host.tasks(other) and host.tasks(there)
        seen |= host.tasks(there)
        time.sleep(0.001)


@pytest.mark.skipif(shutil.which("gcc") is None, reason=NO_GCC)
@pytest.mark.parametrize(
    "unified", [False, pytest.param(True, marks=pytest.mark.skipif(not mounted(V2), reason=NO_V2))]
)
def test_a_thousand_processes_a_second_for_ten_seconds_are_caught_and_led_back(tmp_path: Path, unified: bool) -> None:
    source = Path(__file__).parents[6] / "tests" / "host" / "programs" / "storm.c"
    subprocess.run(["gcc", "-O2", "-o", str(tmp_path / "storm"), str(source)], check=True)
    with corner(unified) as host:
        host.make("/a")
        host.make("/b")
        began = time.monotonic()
        storm = host.start(
            "/a", script=f"exec {tmp_path}/storm 4 1000 13"
        )  # longer: a busy machine needs its time, too
        passes = 0
        while time.monotonic() < began + 10:
            apply(host, step("move_tasks", source="/a", target="/b"))
            _all_in("/b", "/a", host)
            revert(host)
            _all_in("/a", "/b", host)
            passes += 2
        child = host.children[storm]
        assert child.stdout and int(child.stdout.readline()) >= 9000 and passes >= 10


def _job(host: Corner) -> List[Step]:
    vm, _rest = vm_and_host(host)
    return [step("reserve_cpus", cpus=vm, memory_migrate=True), step("cpuset", path="/gone", state="absent")]


def _furnished(host: Corner) -> None:
    vm, rest = vm_and_host(host)
    for name in ("/machine.slice", "/docker", "/docker/x", "/gone"):
        host.make(name)
    for place, cpus in (("", ""), ("", vm), ("", rest), ("/docker/x", vm), ("/gone", ""), ("/machine.slice", vm)):
        host.start(place, cpus)


def test_killed_after_any_write_it_reverts_exactly_or_completes() -> None:
    with corner() as host:
        _furnished(host)
        before = host.snapshot()
        host.log.clear()
        apply(host, *_job(host))
        writes, isolated = len(host.log), host.snapshot()
        revert(host)
        unchanged(host, before)
        assert writes > 10
        for count in range(1, writes + 1):
            for complete in (False, True):
                host.watch = kill_at(count)
                with pytest.raises(Killed):
                    apply(host, *_job(host))
                host.watch = None
                if complete:
                    apply(host, *_job(host))
                    unchanged(host, isolated)
                revert(host)
                unchanged(host, before)


def _refusing(left: List[int]) -> Callable[[str], int]:
    """Refuse the write that brings the count to zero."""

    def refuse(_path: str) -> int:
        left[0] -= 1
        return errno.EIO if left[0] == 0 else 0

    return refuse


def test_refused_at_any_write_everything_is_as_before() -> None:
    with corner() as host:
        _furnished(host)
        before = host.snapshot()
        for count in range(1, 100):
            left = [count]
            host.refuse = _refusing(left)
            try:
                apply(host, *_job(host))
            except IsolationError as error:
                assert "Everything is back as it was" in str(error)
            host.refuse = None
            if left[0] > 0:
                break
            unchanged(host, before)
        assert count > 8
        revert(host)
        unchanged(host, before)


# Several claims, and tasks that come while they are there


def _made(host: Corner, *names: str) -> None:
    for name in names:
        host.make(name)


def test_the_host_stays_isolated_when_one_of_two_vms_stops_while_a_task_comes() -> None:
    with corner() as host:
        vm, _rest = vm_and_host(host)
        tasks = {host.start(), host.start()}
        before = host.snapshot()
        for claim in ("a", "b"):
            apply(host, step("reserve_cpus", cpus=vm), claim=claim)
        new = host.start()
        revert(host, "a")
        assert host.tasks("/host.slice") == {*tasks, new} and not host.tasks()
        revert(host, "b")
        assert host.tasks() == {*tasks, new} and host.snapshot().items() >= before.items()


def test_two_claims_that_move_into_one_cpuset_each_take_back_their_own() -> None:
    with corner() as host:
        _made(host, "/a", "/b", "/t")
        mine, other = host.start("/a"), host.start("/b")
        apply(host, step("move_tasks", source="/a", target="/t"), claim="mine")
        apply(host, step("move_tasks", source="/b", target="/t"), claim="other")
        new = host.start("/a")
        revert(host, "other")
        assert (host.tasks("/a"), host.tasks("/b"), host.tasks("/t")) == (set(), {other}, {mine, new})
        revert(host, "mine")
        assert (host.tasks("/a"), host.tasks("/b"), host.tasks("/t")) == ({mine, new}, {other}, set())


def test_a_changed_claim_keeps_what_it_moved() -> None:
    with corner() as host:
        _made(host, "/a", "/t")
        task = host.start("/a")
        move = step("move_tasks", source="/a", target="/t")
        apply(host, move)
        new = host.start("/a")
        apply(host, step("cpuset", path="/x"), move)
        assert host.tasks("/t") == {task, new}
        revert(host)
        assert host.tasks("/a") == {task, new}


def test_a_refused_change_leaves_what_was_moved_and_owes_what_came() -> None:
    with corner() as host:
        _made(host, "/a", "/t")
        move = step("move_tasks", source="/a", target="/t")
        task = host.start("/a")
        apply(host, move, claim="first")
        new = host.start("/a")
        host.refuse = lambda path: errno.EIO if path.endswith("sched_load_balance") else 0
        with pytest.raises(IsolationError, match="Everything is back as it was"):
            apply(host, step("cpuset", path="/t", sched_load_balance=False), claim="second")
        host.refuse = None
        assert host.tasks("/t") == {task, new}
        revert(host)
        assert host.tasks("/a") == {task, new}


def test_a_single_module_leaves_the_tasks_of_claims_alone() -> None:
    with corner() as host:
        _made(host, "/a", "/t", "/x", "/y")
        apply(host, step("move_tasks", source="/a", target="/t"))
        new, task = host.start("/a"), host.start("/x")
        outcome = Engine(host).once(step("move_tasks", source="/x", target="/y"))
        assert host.tasks("/a") == {new} and host.tasks("/y") == {task}
        assert set(outcome.prior.values()) == {"/x"}


def test_a_child_of_a_living_parent_is_that_ones_also_in_the_process_group_of_another() -> None:
    with corner() as host:
        _made(host, "/a", "/t")
        script = f"sh -c 'echo $$ > {host.mount}/t/tasks; while :; do sleep 0.2; sleep 1000 & done' & exec sleep 1000"
        leader = host.start("/a", script=script)
        until(lambda: bool(host.lasting("/t")))
        apply(host, step("move_tasks", source="/a", target="/t"))
        until(lambda: len(host.lasting("/t") - {leader}) >= 4)
        revert(host)
        assert host.tasks("/a") == {leader} and len(host.tasks("/t")) >= 4


def test_what_a_fork_of_a_fork_was_moved_through_is_not_where_it_belongs() -> None:
    with corner() as host:
        _made(host, "/a", "/t", "/u")
        for _number in range(4):
            host.start("/a", script=FORKS)
        apply(host, step("move_tasks", source="/a", target="/t"), step("move_tasks", source="/t", target="/u"))
        assert host.tasks("/u") and not host.tasks("/a") and not host.tasks("/t")
        revert(host)
        assert host.tasks("/a") and not host.tasks("/t") and not host.tasks("/u")


def test_steps_in_a_circle_end_where_the_last_of_them_wants_it() -> None:
    with corner() as host:
        _made(host, "/a", "/t")
        task = host.start("/a")
        circle = [step("move_tasks", source="/a", target="/t"), step("move_tasks", source="/t", target="/a")]
        for _again in range(2):
            apply(host, *circle)
            assert host.tasks("/a") == {task}


def test_a_widened_cpuset_shrinks_again_when_the_one_below_it_is_gone() -> None:
    with corner() as host:
        vm, rest = vm_and_host(host)
        host.make("/a")
        host.put("/a/cpuset.cpus", rest)
        before = host.snapshot()
        apply(host, step("cpuset", path="/a", cpus=host.cpus), step("cpuset", path="/a/b", cpus=vm))
        revert(host)
        unchanged(host, before)


def test_a_cpuset_that_somebody_made_in_ours_keeps_it_and_nothing_else() -> None:
    with corner() as host:
        before = host.snapshot()
        apply(host, step("cpuset", path="/a"))
        host.make("/a/theirs")
        reasons = revert(host).skipped
        assert "something runs in it" in reasons["cgroup.exists:/a"] and os.path.isdir(host.mount + "/a/theirs")
        os.rmdir(host.mount + "/a/theirs")
        os.rmdir(host.mount + "/a")
        unchanged(host, before)


def test_a_cpuset_with_a_flag_that_cannot_go_is_left_as_a_new_one() -> None:
    with corner() as host:
        vm, _rest = vm_and_host(host)
        everything = host.get("/cpuset.cpus")
        apply(host, step("reserve_cpus", cpus=vm, memory_migrate=True))
        host.make("/host.slice/theirs")
        reasons = revert(host).skipped
        assert "something runs in it" in reasons["cgroup.exists:/host.slice"]
        assert f"it holds {everything} now" in reasons["cgroup.cpus:/host.slice"]
        assert (
            host.get("/host.slice/cpuset.memory_migrate") == "0" and host.get("/host.slice/cpuset.cpus") == everything
        )
        os.rmdir(host.mount + "/host.slice/theirs")
        os.rmdir(host.mount + "/host.slice")


def test_nodes_that_one_claim_has_named_hold_for_all() -> None:
    with corner() as host:
        vm, _rest = vm_and_host(host)
        nodes = host.get("/cpuset.mems")
        steps = {"names": step("reserve_cpus", cpus=vm, host_mems=nodes), "none": step("reserve_cpus", cpus=vm)}
        for name in steps:
            Engine(host).apply(name, [steps[name]])
            assert host.get("/host.slice/cpuset.mems") == nodes
        Engine(host).revert()


def test_a_host_cpuset_around_the_vms_is_refused() -> None:
    with corner() as host:
        vm, _rest = vm_and_host(host)
        for given in ({"host_cgroup": "/m", "cgroup": "/m/vm"}, {"host_cgroup": "/m/host", "cgroup": "/m"}):
            with pytest.raises(IsolationError, match="must not be in one another"):
                apply(host, step("reserve_cpus", cpus=vm, **given))
        with pytest.raises(IsolationError, match="host_cgroup: '/' is not the path of a cgroup below the root"):
            apply(host, step("reserve_cpus", cpus=vm, host_cgroup="/"))


@pytest.mark.skipif(not mounted(V2), reason=NO_V2)
def test_a_process_whose_first_thread_has_ended_moves_and_comes_back_on_v2() -> None:
    first_ends = "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n"
    first_ends += "ctypes.CDLL(None).pthread_exit(None)"
    with corner(unified=True) as host:
        _made(host, "/a", "/t")
        process = host.start("/a", script=f"exec {sys.executable} -c '{first_ends}'")
        until(lambda: " Z " in _read(f"/proc/{process}/stat") and len(os.listdir(f"/proc/{process}/task")) == 2)
        (thread,) = {int(name) for name in os.listdir(f"/proc/{process}/task")} - {process}
        apply(host, step("move_tasks", source="/a", target="/t"))
        assert _read(f"{host.mount}/t/cgroup.threads").split() == [str(thread)]
        assert not apply(host, step("move_tasks", source="/a", target="/t")).changed
        revert(host)
        assert str(thread) in _read(f"{host.mount}/a/cgroup.threads").split()


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()


# Any steps, in any order

PLACES = st.sampled_from(["/", "/a", "/c", "/c/d"])
FLAGS = st.fixed_dictionaries(
    {}, optional={flag: st.booleans() for flag in ("mem_hardwall", "memory_migrate", "sched_load_balance")}
)
ANY_STEP = st.one_of(
    st.builds(
        lambda path, cpus, flags: ("cpuset", {"path": path, "cpus": cpus, **flags}),
        st.sampled_from(["/a", "/n", "/n/m", "/c/d"]),
        st.sampled_from(["vm", "rest", ""]),
        FLAGS,
    ),
    st.just(("cpuset", {"path": "/gone", "state": "absent"})),
    st.builds(
        lambda source, target, threads: ("move_tasks", {"source": source, "target": target, "kernel_threads": threads}),
        PLACES,
        PLACES,
        st.booleans(),
    ),
    st.builds(
        lambda cpus, migrate: ("reserve_cpus", {"cpus": cpus, "memory_migrate": migrate}),
        st.sampled_from(["vm", "rest"]),
        st.booleans(),
    ),
)
NAMES = st.sampled_from(["x", "y", "z"])
EVENTS = st.lists(st.tuples(NAMES, st.none() | st.lists(ANY_STEP, min_size=1, max_size=3)), min_size=1, max_size=7)
TASKS = st.lists(
    st.tuples(st.sampled_from(["", "/a", "/gone", "/c/d"]), st.sampled_from(["", "vm", "rest"])), max_size=4
)


@given(tasks=TASKS, events=EVENTS)
def test_claims_that_come_change_and_go_leave_nothing(tasks: List[Any], events: List[Any]) -> None:
    with corner() as host:
        names = dict(zip(("vm", "rest"), vm_and_host(host)))
        _made(host, "/a", "/gone", "/c", "/c/d")
        for place, cpus in tasks:
            host.start(place, names.get(cpus, ""))
        before = host.snapshot()
        for claim, given_steps in events:
            if given_steps is None:
                revert(host, claim)
                continue
            steps = [
                step(name, **{**arguments, **({"cpus": names[arguments["cpus"]]} if arguments.get("cpus") else {})})
                for name, arguments in given_steps
            ]
            _applies(host, claim, steps)
        revert(host)
        unchanged(host, before)


def _applies(host: Corner, claim: str, steps: List[Step]) -> None:
    """Check mode says what is done; a second run does nothing; what is refused changes nothing."""
    now = host.snapshot()
    try:
        announced = Engine(host).apply(claim, steps, check=True)
    except IsolationError:
        with pytest.raises(IsolationError):
            Engine(host).apply(claim, steps)
        unchanged(host, now)
        return
    unchanged(host, now)
    try:
        done = Engine(host).apply(claim, steps)
    except IsolationError as error:  # the kernel knows more rules than the plan
        assert "Everything is back as it was" in str(error)
        unchanged(host, now)
        return
    assert announced.changes == done.changes
    assert not Engine(host).apply(claim, steps).changed
