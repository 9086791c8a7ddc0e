# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cgroup v1: the strategy tasks, and that it goes without a trace."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from .claims import crosswise
from .domains import install, xml
from .ground import (
    CGROUP,
    HOST,
    VM,
    affinity,
    assert_isolated,
    at_end,
    cpus,
    differences,
    engine,
    isolate,
    job,
    killed_after,
    process,
    put_online,
    read,
    refused,
    revert,
    service,
    sh,
    snapshot,
    step,
    take_offline,
    unchanged,
    user_threads,
    write,
)
from .hook import call

CPUSET = f"{CGROUP}/cpuset"


def _assert_left_to_the_vm() -> None:
    assert_isolated(strategy="tasks")
    assert cpus(read(f"{CPUSET}/host.slice/cpuset.cpus")) == HOST
    left = [(number, name) for number, name in user_threads() if os.sched_getaffinity(number) & VM]
    assert not left, left


def check_tasks() -> None:
    """Every task of the host, pid 1, kthreadd and movable interrupts leave the CPUs, new services too, and it lasts."""
    outcome = isolate()
    assert outcome.notes["strategy"] == "tasks", outcome.notes
    _assert_left_to_the_vm()
    assert read(f"{CPUSET}/host.slice/cpuset.mems") == "0"  # the nodes of its CPUs
    sh("systemctl daemon-reload")
    assert os.sched_getaffinity(service("born-later")) <= HOST
    _assert_left_to_the_vm()


def check_second_run_writes_nothing() -> None:
    """The second run writes nothing at all."""
    isolate()
    written = []
    outcome = engine(written.append).apply("host", job())
    assert not written, written
    assert not outcome.changed and not outcome.changes and not outcome.actions


def check_announces_exactly() -> None:
    """Check mode writes nothing, and announces exactly what the real run then changes."""
    before = snapshot()
    written = []
    announced = engine(written.append).apply("host", job(), check=True)
    assert not written, written
    unchanged(before, "after check mode")
    real = engine().apply("host", job())
    assert announced.changes == real.changes, set(announced.changes) ^ set(real.changes)
    announced = engine(written.append).revert(check=True)
    assert not written, written
    assert announced.changes == revert().changes


def check_revert() -> None:
    """Cpusets, places of tasks, affinities, interrupts, governors: byte for byte what they were."""
    before = snapshot()
    isolate(memory_migrate=True, host_mems="0-1")
    _assert_left_to_the_vm()
    assert read(f"{CPUSET}/host.slice/cpuset.mems") == "0-1"
    assert read(f"{CPUSET}/host.slice/cpuset.memory_migrate") == "1"
    revert()
    unchanged(before)
    assert not os.path.exists("/run/vfio-isolation/journal.json")


def check_affinities() -> None:
    """Services with CPUAffinity 5, 3 5 and 1 2 keep what fits, and have theirs again after."""
    threads = {
        requested: service(f"bound-{requested.replace(' ', '-')}", requested) for requested in ("5", "3 5", "1 2")
    }
    before = {requested: affinity(thread) for requested, thread in threads.items()}
    assert before == {"5": "5", "3 5": "3,5", "1 2": "1-2"}
    isolate()
    assert {requested: affinity(thread) for requested, thread in threads.items()} == {
        "5": "0-3",
        "3 5": "3",
        "1 2": "1-2",
    }
    assert not engine().apply("host", job()).changed
    revert()
    assert {requested: affinity(thread) for requested, thread in threads.items()} == before


def check_containers_are_narrowed() -> None:
    """Cpusets that others have made (Docker does, on v1) leave the CPUs, with their children, and get them back."""
    for path in ("/docker", "/docker/box"):
        os.mkdir(CPUSET + path)
        at_end(lambda path=path: os.rmdir(CPUSET + path))
        write(f"{CPUSET}{path}/cpuset.mems", "0-1")
        write(f"{CPUSET}{path}/cpuset.cpus", "0-7" if path == "/docker" else "3-5")
    inside = process()
    write(f"{CPUSET}/docker/box/tasks", str(inside))
    before = snapshot()
    isolate()
    assert read(f"{CPUSET}/docker/cpuset.cpus") == "0-3" and affinity(inside) == "3"
    revert()
    unchanged(before)


def check_memory_migrates() -> None:
    """50 MiB of a task that is moved are on the other node afterwards, as its numa_maps says."""
    for path, node in (("/from", "1"), ("/to", "0")):
        engine().once(step("cpuset", path=path, cpus="0-7", mems=node, memory_migrate=path == "/to"))
        at_end(lambda path=path: engine().once(step("cpuset", path=path, state="absent")))
    hold = (
        "import sys, time; m = bytearray(50 << 20); m[::4096] = b'x' * (50 << 8); print(flush=True); time.sleep(1000)"
    )
    enter = f'echo $$ > {CPUSET}/from/tasks; exec {sys.executable} -c "{hold}"'
    task = subprocess.Popen(["/bin/sh", "-c", enter], stdout=subprocess.PIPE)
    at_end(lambda: (task.kill(), task.wait(), task.stdout.close()))
    assert task.stdout.readline() == b"\n"
    pages = 50 << 8
    assert _pages(task.pid, 1) >= pages and _pages(task.pid, 0) < pages // 10
    engine().apply("move", [step("move_tasks", source="/from", target="/to")])
    assert _pages(task.pid, 0) >= pages and _pages(task.pid, 1) < pages // 10
    revert()
    assert read(f"{CPUSET}/from/tasks") == str(task.pid)


def _pages(task: int, node: int) -> int:
    """Anonymous pages of a task on a node; files have theirs shared with others."""
    anonymous = [line for line in read(f"/proc/{task}/numa_maps").splitlines() if " anon=" in line]
    return sum(int(number) for number in re.findall(rf" N{node}=(\d+)", " ".join(anonymous)))


def check_two_claims() -> None:
    """Two claims that come and go crosswise add up, and leave nothing."""
    crosswise("tasks")


def check_killed_after_any_write() -> None:
    """Killed after every ninth write, a revert gives the baseline, and a second run completes."""
    before = snapshot()
    writes: list[str] = []
    engine(writes.append).apply("host", job())
    revert()
    unchanged(before, "before any kill")
    for number in range(1, len(writes) + 1, 9):
        for complete in (False, True):
            assert killed_after(number, lambda wrote: engine(wrote).apply("host", job()))
            if complete:
                engine().apply("host", job())
                _assert_left_to_the_vm()
            revert()
            unchanged(before, f"after a kill at write {number} of {len(writes)}")


def check_flags_of_version_2_are_refused() -> None:
    """What only v2 has is an error that says so."""
    assert "cgroup v1, which has no partitions" in refused(
        lambda: engine().once(step("cpuset", path="/x", partition="isolated"))
    )
    assert "is on cgroup v1; use strategy auto or tasks" in refused(lambda: isolate(strategy="partition"))


def check_cpu_that_goes_offline() -> None:
    """The kernel takes a CPU that goes offline out of v1 cpusets for good; the next run puts it back, a revert too."""
    before = snapshot()
    reserve = [step("reserve_cpus", cpus="4-7")]
    engine().apply("host", reserve)
    take_offline(3)
    assert read(f"{CPUSET}/host.slice/cpuset.cpus") == "0-2"
    put_online(3)
    assert read(f"{CPUSET}/host.slice/cpuset.cpus") == "0-2"
    drift = {change.address: (change.before, change.after) for change in engine().inspect()[1].changes}
    assert drift["cgroup.cpus:/host.slice"] == ("0-2", "0-3"), drift
    engine().apply("host", reserve)
    assert read(f"{CPUSET}/host.slice/cpuset.cpus") == "0-3"
    revert()
    found = [line for line in differences(before, snapshot()) if not line.startswith("irq ")]
    assert not found, found


def _make(name: str, cpu_list: str, exclusive: bool = False) -> None:
    """A cpuset of somebody else, which goes when the check ends."""
    os.mkdir(f"{CPUSET}/{name}")
    at_end(lambda: os.rmdir(f"{CPUSET}/{name}"))
    write(f"{CPUSET}/{name}/cpuset.mems", "0-1")
    write(f"{CPUSET}/{name}/cpuset.cpus", cpu_list)
    write(f"{CPUSET}/{name}/cpuset.cpu_exclusive", str(int(exclusive)))


def check_an_exclusive_cpuset_beside_others() -> None:
    """An exclusive cpuset of ours is gone before those beside it get its CPUs back, also after a step that fails."""
    _make("docker", "0-7")
    before = snapshot()
    steps = [step("reserve_cpus", cpus="4-7"), step("cpuset", path="/machine.slice", cpus="4-7", cpu_exclusive=True)]
    engine().apply("host", steps)
    assert read(f"{CPUSET}/machine.slice/cpuset.cpu_exclusive") == "1" and read(f"{CPUSET}/docker/cpuset.cpus") == "0-3"
    assert not revert().skipped
    unchanged(before)
    # The root's CPUs overlap with all others, so it refuses what the last step asks for.
    overlapping = step("cpuset", path="/other", cpus="0-3", cpu_exclusive=True)
    assert refused(lambda: engine().apply("host", [*steps, overlapping])).endswith("Everything is back as it was")
    unchanged(before, "after rolling back")


def check_exclusive_neighbours_exchange_cpus() -> None:
    """Of two exclusive cpusets one gets what the other gives up, whatever their order, there and back."""
    _make("a", "0-3", exclusive=True)
    _make("b", "4-7", exclusive=True)
    before = snapshot()
    for gives, takes in ((("/a", "0-1"), ("/b", "2-7")), (("/b", "6-7"), ("/a", "0-5"))):
        steps = [step("cpuset", path=path, cpus=cpu_list) for path, cpu_list in (gives, takes)]
        for order in (steps, steps[::-1]):
            engine().apply("vm", order)
            assert all(read(f"{CPUSET}{path}/cpuset.cpus") == cpu_list for path, cpu_list in (gives, takes))
            revert()
            unchanged(before, f"after {order}")
        engine().apply("one", steps[:1])
        engine().apply("two", steps[1:])
        revert()
        unchanged(before, f"after {steps}, one by one")


def check_hook() -> None:
    """The hook of libvirt on v1, with a container beside the VMs, and an emulator on the CPUs of the host."""
    install("one", "two")
    os.mkdir(f"{CPUSET}/machine.slice")
    at_end(lambda: os.rmdir(f"{CPUSET}/machine.slice"))
    os.mkdir(f"{CPUSET}/machine.slice/box")
    at_end(lambda: os.rmdir(f"{CPUSET}/machine.slice/box"))
    for path in ("machine.slice", "machine.slice/box"):
        for name in ("mems", "cpus"):
            write(f"{CPUSET}/{path}/cpuset.{name}", read(f"{CPUSET}/cpuset.{name}"))
    inside = process()
    write(f"{CPUSET}/machine.slice/box/tasks", str(inside))
    before = snapshot()
    for name, pins in (("one", "4,5"), ("two", "6,7")):
        done = call(name, "prepare", "begin", xml(name, pins, "0-3"))
        assert (done.returncode, done.stderr) == (0, ""), done
    assert cpus(read(f"{CPUSET}/host.slice/cpuset.cpus")) == HOST
    assert os.sched_getaffinity(1) == os.sched_getaffinity(2) == HOST and os.sched_getaffinity(inside) == HOST | VM
    for name in ("one", "two"):
        assert call(name, "release", "end").returncode == 0
    unchanged(before)
