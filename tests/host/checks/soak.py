# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Random operations on a real kernel: claims come, change and go, runs are killed, and the host changes meanwhile.

`SOAK=200` in the environment does so many of them, `SEED=7` the same ones again; `make soak-host` does 200. Without
either, as in `make host`, they are always the same.
"""

from __future__ import annotations

import glob
import os
import random
import re
import subprocess
import time
from typing import Any

from .ground import (
    CGROUP,
    affinity,
    at_end,
    cpus,
    differences,
    engine,
    killed_after,
    managed,
    put_online,
    read,
    refused,
    sh,
    snapshot,
    step,
    write,
)

OPERATIONS = int(os.environ.get("SOAK", "12"))
ALL = frozenset(range(8))
# A VM's CPUs are its own; two of them are in one cgroup, which both strategies share.
VMS = {"a": ("4", "machine.slice"), "b": ("5-6", "machine.slice"), "c": ("7", "vms.slice")}
OTHERS = {
    "quiet": [step("cpu_governor", governor="performance", cpus="2-5"), step("irq_affinity", cpus="3-5")],
    "unbound": [step("kthread_affinity", cpus="2,6")],
    "unit": [step("cpuset", path="/own.slice", cpus="1-2,5", operation="mask")],
}
# The driver of the network card and the disk's spread their interrupts anew when a CPU goes or comes.
RESPREAD = r"^irq "
CONFINED = ("system.slice", "user.slice", "init.scope")


class Soak:
    """What is expected of the host."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.claims: dict[str, list] = {}
        self.processes: dict[int, tuple[subprocess.Popen, frozenset]] = {}
        self.offline: set[int] = set()
        self.killed = 0
        self.were_offline = False
        masks = {path: read(path) for path in glob.glob("/proc/irq/*/smp_affinity_list") if not managed(path)}
        at_end(lambda: [write(path, mask) for path, mask in masks.items()])
        sh("systemctl start own.slice")
        at_end(lambda: sh("systemctl stop own.slice vms.slice soak.service; systemctl reset-failed || true"))
        at_end(lambda: [put_online(cpu) for cpu in sorted(self.offline)])
        at_end(lambda: [child.kill() or child.wait() for child, _requested in self.processes.values()])
        self.before = self.settings()

    def settings(self) -> dict[str, str]:
        """All that is to be as it was in the end: without this check's own processes."""
        state = snapshot()
        own = [re.compile(rf"^thread {number}:") for number in self.processes]
        return {
            key: value
            for key, value in state.items()
            if not any(pattern.match(key) for pattern in own) and "soak.service" not in key
        }

    # Operations

    def apply(self) -> str:
        """A claim comes, or changes; every third such run is killed first."""
        name = self.chance.choice([*VMS, *VMS, *OTHERS])
        strategy = self.chance.choice(["partition", "slices"])
        if name in VMS:
            vm, cgroup = VMS[name]
            steps = [step("reserve_cpus", cpus=vm, strategy=strategy, cgroup=f"/{cgroup}")]
            if self.chance.random() < 0.3:
                steps += [step("cpu_governor", governor="powersave", cpus=vm), step("irq_affinity", cpus=vm)]
        else:
            steps = OTHERS[name]
        new = [given for i, given in enumerate(steps) if self.claims.get(name, [])[i : i + 1] != [given]]
        if self.offline & self.wanted(new):  # what a claim has already, it keeps
            sentence = refused(lambda: engine().apply(name, steps))
            assert "not online" in sentence, sentence
            return f"{name} refused: a CPU is offline"
        what = f"{name} {strategy if name in VMS else ''}"
        if self.chance.random() < 0.35:
            writes = self.chance.randrange(1, 40)
            if killed_after(writes, lambda wrote: engine(wrote).apply(name, steps)):
                self.killed += 1
                what += f", killed after write {writes}"
                if self.chance.random() < 0.5:
                    engine().revert([name])
                    self.claims.pop(name, None)
                    return what + ", reverted"
        engine().apply(name, steps)
        self.claims[name] = steps
        return what

    def revert(self) -> str:
        """A claim goes."""
        if not self.claims:
            return "nothing to revert"
        name = self.chance.choice(sorted(self.claims))
        what = f"revert {name}"
        if self.chance.random() < 0.35:
            writes = self.chance.randrange(1, 30)
            if killed_after(writes, lambda wrote: engine(wrote).revert([name])):
                self.killed += 1
                what += f", killed after write {writes}"
        engine().revert([name])
        del self.claims[name]
        return what

    def hotplug(self) -> str:
        """A CPU goes offline, or comes online; at most two are offline."""
        cpu = self.chance.choice(sorted(self.offline)) if len(self.offline) > 1 else self.chance.randrange(1, 8)
        self.were_offline = True
        write(f"/sys/devices/system/cpu/cpu{cpu}/online", "1" if cpu in self.offline else "0")
        self.offline ^= {cpu}
        time.sleep(0.3)  # the kernel updates the cpusets in a worker
        self.mend()
        return f"CPU {cpu} {'offline' if cpu in self.offline else 'online'}"

    def starts(self) -> str:
        """A process begins, in a cgroup of the host's, and binds itself."""
        child = subprocess.Popen(["sleep", "100000"], stdin=subprocess.DEVNULL)
        self.processes[child.pid] = (child, ALL)
        write(f"{CGROUP}/own.slice/cgroup.procs", str(child.pid))
        return f"process {child.pid}, {self.bind(child.pid)}"

    def binds(self) -> str:
        """A process binds itself anew."""
        return self.bind(self.chance.choice(sorted(self.processes))) if self.processes else "no process"

    def bind(self, number: int) -> str:
        """To a CPU or two that it may have."""
        effective = self.effective("own.slice")
        possible = sorted(effective - self.offline)
        chosen = frozenset(self.chance.sample(possible, min(len(possible) - 1, self.chance.randrange(1, 3))))
        child, requested = self.processes[number]
        if not chosen or chosen in (requested & effective, effective, frozenset(cpus(affinity(number)))):
            return "bound as it was"
        os.sched_setaffinity(number, chosen)
        self.processes[number] = (child, chosen)
        self.mend()  # what no run has seen, the kernel may lose
        return f"{number} bound to {sorted(chosen)}"

    def ends(self) -> str:
        """A process ends."""
        if not self.processes:
            return "no process"
        number = self.chance.choice(sorted(self.processes))
        child, _requested = self.processes.pop(number)
        child.kill()
        child.wait()
        return f"process {number} ended"

    def service(self) -> str:
        """A service starts, or stops."""
        running = sh("systemctl is-active soak.service || true") == "active"
        sh(f"systemctl stop soak.service {'' if running else '; systemd-run -q --unit=soak.service sleep infinity'}")
        return "service stopped" if running else "service started"

    def reload(self) -> str:
        """daemon-reload."""
        sh("systemctl daemon-reload")
        return "daemon-reload"

    # The oracle

    @staticmethod
    def wanted(steps: list) -> set[int]:
        """The CPUs that steps name."""
        return set().union(*(cpus(given.arguments["cpus"]) for given in steps))

    def reservations(self) -> dict[str, tuple[set[int], set[str]]]:
        """For each cgroup the CPUs that are reserved for it, and by which strategies."""
        found: dict[str, tuple[set[int], set[str]]] = {}
        for steps in self.claims.values():
            for given in steps:
                if given.name == "reserve_cpus":
                    own, strategies = found.setdefault(given.arguments["cgroup"].strip("/"), (set(), set()))
                    own |= cpus(given.arguments["cpus"])
                    strategies.add(given.arguments["strategy"])
        return found

    def effective(self, cgroup: str) -> set[int]:
        """The effective CPUs of a cgroup below the root, as the kernel has it."""
        listed = read(f"{CGROUP}/{cgroup}/cpuset.cpus.effective")
        return cpus(read(f"{CGROUP}/cpuset.cpus.effective") if listed == "<errno 2>" else listed)

    def mend(self) -> None:
        """The next run sees what has happened: that of any claim, or one that gives back what is owed."""
        for name in list(self.claims)[:1]:
            engine().apply(name, self.claims[name])
        if not self.claims:
            engine().revert()

    def check(self) -> None:
        """The kernel's word on all claims."""
        reserved: set[int] = set()
        for cgroup, (own, strategies) in self.reservations().items():
            reserved |= own
            state = read(f"{CGROUP}/{cgroup}/cpuset.cpus.partition")
            if "partition" in strategies:
                assert state == ("root" if "slices" in strategies else "isolated"), (cgroup, state)
                assert self.effective(cgroup) == own - self.offline, (cgroup, self.effective(cgroup), own)
            else:
                assert state in ("member", "<errno 2>"), (cgroup, state)
        for cgroup in (*CONFINED, "own.slice"):
            if not (cgroup == "own.slice" and "unit" in self.claims):
                assert not self.effective(cgroup) & reserved, (cgroup, self.effective(cgroup), reserved)
        for number, (_child, requested) in self.processes.items():
            left = self.effective("own.slice")
            now = cpus(affinity(number)) - self.offline
            if not now and not requested & left:
                continue  # asleep on a CPU that is offline: the kernel chooses when it wakes
            assert now == ((requested & left) or left), (number, now, sorted(requested), left)
        known = engine().inspect()[0].baseline
        drift = [change for change in engine().inspect()[1].changes if not self.is_new_thread(change.address, known)]
        assert not drift, drift
        for name, steps in list(self.claims.items())[-1:]:
            again = [c for c in engine().apply(name, steps).changes if not self.is_new_thread(c.address, known)]
            assert not again, ("a second run changes something", again)
        if not self.claims and not self.offline:
            engine().revert()  # what was owed
            self.check_baseline()

    @staticmethod
    def is_new_thread(address: str, known: Any) -> bool:
        """Whether it is the affinity of a kernel thread that began since the run: the next one sees it."""
        return address.startswith("task.affinity:") and address not in known

    def check_baseline(self) -> None:
        """Nothing is left."""
        left = differences(self.before, self.settings())
        left = [line for line in left if not (self.were_offline and re.search(RESPREAD, line))]
        assert not left, "\n  ".join(["left after all claims have gone:", *left])
        for number, (_child, requested) in self.processes.items():
            assert cpus(affinity(number)) == requested, (number, affinity(number), sorted(requested))
        assert not os.path.exists("/run/vfio-isolation/journal.json")


def check_soak() -> None:
    """After each operation every claim has its CPUs, and all is as it was when the last one has gone."""
    seed = int(os.environ.get("SEED") or (random.randrange(1 << 30) if "SOAK" in os.environ else 1))
    soak = Soak(random.Random(seed))
    frequent = [soak.apply, soak.apply, soak.apply, soak.revert, soak.revert]
    events = [soak.hotplug, soak.starts, soak.binds, soak.ends, soak.service, soak.reload]
    began, told = time.monotonic(), []
    for number in range(OPERATIONS):
        try:
            told.append(soak.chance.choice([*frequent, *events])())
            soak.check()
        except BaseException:
            print(f"seed {seed}, operation {number + 1}:", *told[-12:], f"claims: {soak.claims}", sep="\n  ")
            raise
    for cpu in sorted(soak.offline):
        put_online(cpu)
    soak.offline.clear()
    engine().revert()
    time.sleep(0.3)
    soak.check_baseline()
    seconds = time.monotonic() - began
    print(f"seed {seed}: {OPERATIONS} operations, {soak.killed} kills, {seconds:.0f} s")
