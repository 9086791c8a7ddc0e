# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command lines: theirs, ours, and where they are expected to differ, with the reason.

Keys and values of expectations are regular expressions that match a whole key or value; a setting that is not there
reads `absent`. A key that starts with FORGOTTEN is expected on kernels that forget what a task requested, before 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Steps = tuple[dict[str, dict[str, Any]], ...]
Pairs = Mapping[str, tuple[str, str]]
UNDO = "restore /run/parity/undo"
FORGOTTEN = "before Linux 6.2: "


@dataclass(frozen=True)
class Line:
    """One command line of vfio-isolate, or several that belong together, and its equal."""

    name: str
    version: int
    theirs: tuple[str, ...]
    ours: tuple[Steps, ...]
    # v2: whether a unit of systemd asks for the cpuset controller, without which vfio-isolate crashes.
    controller: bool = False
    # v1: whether the mounts are as Debian makes them, where vfio-isolate takes a wrong one; else cpuset is the first.
    stock: bool = False
    # In the shell, with the functions of `measure`.
    setup: str = ""
    # Whether ours is also run as single modules, with `restore` given what they returned as `prior`.
    by_prior: bool = False
    # No setting is changed by either.
    idle: bool = False
    # In what they print where they crash, at the command and at their restore; where nothing is here they exit with 0.
    crash: str = ""
    undo_crash: str = ""
    # In what they print where they do not crash.
    says: str = ""
    # In the sentence with which ours refuses; where nothing is here it succeeds.
    refusal: str = ""
    # Settings that differ after the command: key -> (after theirs, after ours).
    differs: Pairs = field(default_factory=dict)
    # Settings that their restore does not give back: key -> (before, after their restore).
    left: Pairs = field(default_factory=dict)
    # Why that is so, where anything above is expected.
    why: str = ""
    # What is run to undo: their restores, our claims by number. By default the last first.
    their_order: tuple[str, ...] = ()
    our_order: tuple[int, ...] = ()

    @property
    def restores(self) -> tuple[str, ...]:
        """Their undo."""
        return self.their_order or tuple(f"{UNDO}{number}" for number in reversed(range(len(self.theirs))))

    @property
    def reverts(self) -> tuple[int, ...]:
        """Our undo."""
        return self.our_order or tuple(reversed(range(len(self.ours))))


def _line(name: str, version: int, theirs: str, *steps: dict[str, Any], **more: Any) -> Line:
    return Line(name, version, (theirs,), (steps,), **more)


def _governor(governor: str, cpus: str) -> dict[str, Any]:
    return {"cpu_governor": {"governor": governor, "cpus": cpus}}


def _irqs(operation: str, cpus: str) -> dict[str, Any]:
    """vfio-isolate knows neither the default affinity nor irqbalance."""
    return {"irq_affinity": {"operation": operation, "cpus": cpus, "default": False, "irqbalance": False}}


def _cpuset(path: str, **more: Any) -> dict[str, Any]:
    return {"cpuset": {"path": path, **more}}


def _move(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"move_tasks": {"source": source, "target": target, **more}}


DROP: dict[str, Any] = {"drop_caches": {"sync": False}}
COMPACT: dict[str, Any] = {"compact_memory": {}}


def _explicit(path: str) -> Pairs:
    """What is left after their undo of a cpuset on v2."""
    return {
        f"cpuset {path} cpus": ("", "0-7"),
        f"cpuset {path} mems": ("", "0-1"),
        f"controller {path}": ("disabled", "enabled"),
    }


def _flags_on(path: str) -> Pairs:
    """What is left after their undo of a cpuset on v1."""
    return {f"cpuset {path} (cpu_exclusive|mem_exclusive|memory_migrate|sched_load_balance)": ("0", "1")}


# An interrupt on CPU 5 alone gets all CPUs that were masked; ours gives 5 back.
ONE_CPU_4_7: Pairs = {r"irq \d+": ("5", "4-7")}
# What ours changes in system.slice, where theirs does nothing.
NARROWED: Pairs = {
    "cpuset /system.slice cpus": ("", "0-3"),
    "effective /system.slice.* cpus": ("0-7", "0-3"),
    "affinity .*": ("0-7", "0-3"),
}
INHERITED = (
    "Their undo writes the inherited CPUs and memory nodes as explicit lists, and leaves the controller on inside."
)
FLAGS = "They read every v1 flag as set, so their undo sets all four."
PINNED = "Before 6.2, Linux resets a task's affinity when its cpuset changes; ours keeps what fits, and gives it back."
ONE_CPU = "Their undo of an interrupt with no CPU left gives it all masked CPUs instead of its own."
UNDO_ORDER = "Their undo of a deletion sets the cpuset's lists before it creates it, and knows of no tasks."
NO_CPUS = "They take an empty set of CPUs for one and do nothing; ours says so."

V2 = (
    _line("drop-caches", 2, "drop-caches", DROP, idle=True),
    _line("compact-memory", 2, "compact-memory", COMPACT, idle=True),
    _line("governor of a range", 2, "cpu-governor performance C4-7", _governor("performance", "C4-7"), by_prior=True),
    _line(
        "governor of a node",
        2,
        "cpu-governor powersave N1",
        _governor("powersave", "N1"),
        setup="governor performance policy6",
    ),
    _line("governor of a list", 2, "cpu-governor ondemand C0,2,5-6", _governor("ondemand", "C0,2,5-6")),
    _line("governor of half a policy", 2, "cpu-governor performance C5", _governor("performance", "C5")),
    _line(
        "governor without CPUs",
        2,
        "drop-caches cpu-governor performance cpuset-modify --cpus C0-3 /system.slice",
        DROP,
        _governor("performance", "C4-7"),
        _cpuset("/system.slice", cpus="C0-3"),
        controller=True,
        crash="must start with C or N",
        differs={"governor policy[46]": ("schedutil", "performance"), **NARROWED},
        why="The README's hook gives cpu-governor no CPUs, so it takes the next command for them and nothing is done.",
    ),
    _line(
        "a step fails",
        2,
        "irq-affinity mask C4-7 cpu-governor powersave C0-3 cpu-governor nonsense C4-7",
        _irqs("mask", "C4-7"),
        _governor("powersave", "C0-3"),
        _governor("nonsense", "C4-7"),
        crash="OSError: .* Invalid argument",
        refusal="no governor 'nonsense'",
        differs={"governor policy[02]": ("powersave", "schedutil"), r"irq \d+": ("0-3", ".*")},
        left={"governor policy[02]": ("schedutil", "powersave"), r"irq \d+": (".*", "0-3")},
        why="They write the undo file after the last step, so a failing step loses it; ours takes all back by itself.",
    ),
    _line(
        "no place for the undo file",
        2,
        "-u /run/parity/nowhere/undo cpu-governor performance C4-7",
        _governor("performance", "C4-7"),
        crash="FileNotFoundError.*/run/parity/nowhere/undo",
        left={"governor policy[46]": ("schedutil", "performance")},
        why="They find out that the undo file cannot be written when all is done; ours writes its journal first.",
    ),
    _line(
        "interrupts off a range",
        2,
        "irq-affinity mask C4-7",
        _irqs("mask", "C4-7"),
        by_prior=True,
        left=ONE_CPU_4_7,
        why=ONE_CPU,
    ),
    _line("interrupts off a node", 2, "irq-affinity mask N1", _irqs("mask", "N1"), left=ONE_CPU_4_7, why=ONE_CPU),
    _line(
        "interrupts off a list",
        2,
        "irq-affinity mask C1,4-5",
        _irqs("mask", "C1,4-5"),
        left={r"irq \d+": ("1|5", "1,4-5")},
        why=ONE_CPU,
    ),
    _line(
        "interrupts off a mask",
        2,
        "irq-affinity mask C000000f0",
        _irqs("mask", "C000000f0"),
        refusal="term 1, 'C000000f0'",
        differs={r"irq \d+": ("0-3", ".*")},
        left=ONE_CPU_4_7,
        why="They read eight hexadecimal digits as a CPU mask, which their help does not say; ours wants a CPU list.",
    ),
    _line("interrupts off no CPU", 2, "irq-affinity mask C", _irqs("mask", "C"), idle=True, refusal="'C'", why=NO_CPUS),
    _line(
        "interrupts off a range that ends before it begins",
        2,
        "irq-affinity mask C7-4",
        _irqs("mask", "C7-4"),
        idle=True,
        refusal="ends .4. before it begins .7.",
        why=NO_CPUS,
    ),
    _line(
        "interrupts off all CPUs",
        2,
        "irq-affinity mask C0-7",
        _irqs("mask", "C0-7"),
        idle=True,
        refusal="all CPUs of this host",
        why="They write an empty list, which is no write at all; ours says that interrupts need a CPU.",
    ),
    _line("interrupts added to a range", 2, "irq-affinity add C4-7", _irqs("add", "C4-7")),
    _line("interrupts added to a node", 2, "irq-affinity add N1", _irqs("add", "N1")),
    _line(
        "-d",
        2,
        "--debug irq-affinity add C6",
        _irqs("add", "C6"),
        says="unable to move set affinity of IRQ",
    ),
    _line(
        "create",
        2,
        "cpuset-create /test.slice",
        _cpuset("/test.slice"),
        controller=True,
        differs={"cpuset /test.slice cpus": ("0-7", ""), "cpuset /test.slice mems": ("0-1", "")},
        why="They copy the parent's lists; ours leaves them inherited, with the same effect until the parent changes.",
    ),
    _line(
        "create with lists",
        2,
        "cpuset-create --cpus C4-7 --mems N1 /test.slice",
        _cpuset("/test.slice", cpus="C4-7", mems="N1"),
        controller=True,
        by_prior=True,
    ),
    _line(
        "create by node",
        2,
        "cpuset-create --cpus N0 --mems N0-1 /test.slice",
        _cpuset("/test.slice", cpus="N0", mems="N0-1"),
        controller=True,
    ),
    _line(
        "create what systemd does not know",
        2,
        "cpuset-create --cpus C4-7 --mems N0-1 /test",
        _cpuset("/test", cpus="C4-7", mems="N0-1"),
        controller=True,
        refusal="call it /test.slice",
        differs={"(cpuset|effective) /test .*": (".*", "absent")},
        why="systemd takes the controller away from such a cgroup at the next daemon-reload; ours refuses the name.",
    ),
    _line(
        "create and move",
        2,
        "cpuset-create --cpus C0-1 --mems N0-1 /test.slice move-tasks /from /test.slice",
        _cpuset("/test.slice", cpus="C0-1", mems="N0-1"),
        _move("/from", "/test.slice"),
        controller=True,
        setup="cpuset /from; start /from sleep 1000",
    ),
    _line(
        "modify, the controller is not enabled",
        2,
        "cpuset-modify --cpus C0-3 /system.slice",
        _cpuset("/system.slice", cpus="C0-3"),
        crash="FileNotFoundError|OSError",
        differs=NARROWED,
        why="They enable the controller in the cpuset itself, not in its parents; a stock Debian has it in none.",
    ),
    _line(
        "modify what is not there",
        2,
        "cpuset-modify --cpus C0-3 --mems N0 /test.slice",
        _cpuset("/test.slice", cpus="C0-3", mems="N0"),
        controller=True,
        crash="FileNotFoundError",
        differs={"(cpuset|effective) /test.slice .*": ("absent", ".*")},
        why="They tell creating from changing; ours creates what is missing.",
    ),
    _line(
        "modify CPUs",
        2,
        "cpuset-modify --cpus C0-3 /system.slice",
        _cpuset("/system.slice", cpus="C0-3"),
        controller=True,
        left=_explicit("/system.slice"),
        why=INHERITED,
    ),
    _line(
        "modify CPUs, with a bound task",
        2,
        "cpuset-modify --cpus C0-3 /system.slice",
        _cpuset("/system.slice", cpus="C0-3"),
        controller=True,
        setup="start /system.slice/ssh.service taskset -c 2,5 sleep 1000",
        differs={f"{FORGOTTEN}affinity .* sleep": ("0-3", "2")},
        left={**_explicit("/system.slice"), f"{FORGOTTEN}affinity .* sleep": ("2,5", "0-7")},
        why=PINNED,
    ),
    _line(
        "modify memory nodes",
        2,
        "cpuset-modify --mems N0 /user.slice",
        _cpuset("/user.slice", mems="N0"),
        controller=True,
        left=_explicit("/user.slice"),
        why=INHERITED,
    ),
    _line(
        "modify by node",
        2,
        "cpuset-modify --cpus N0 --mems N0 /system.slice",
        _cpuset("/system.slice", cpus="N0", mems="N0"),
        controller=True,
        by_prior=True,
        left=_explicit("/system.slice"),
        why=INHERITED,
    ),
    _line(
        "the README's 5950X",
        2,
        "cpuset-modify --cpus C0-2,4-6 /system.slice cpuset-modify --cpus C0-2,4-6 /user.slice",
        _cpuset("/system.slice", cpus="C0-2,4-6"),
        _cpuset("/user.slice", cpus="C0-2,4-6"),
        controller=True,
        left={**_explicit("/system.slice"), **_explicit("/user.slice")},
        why=INHERITED,
    ),
    _line(
        "modify no CPU",
        2,
        "cpuset-modify --cpus C /system.slice",
        _cpuset("/system.slice", cpus="C"),
        controller=True,
        idle=True,
        refusal="'C'",
        left=_explicit("/system.slice"),
        why=NO_CPUS,
    ),
    _line(
        "modify a service, controller enabled by hand",
        2,
        "cpuset-modify --cpus C0-3 /system.slice/dbus.service",
        _cpuset("/system.slice/dbus.service", cpus="C0-3"),
        setup="controller; controller /system.slice",
        left=_explicit("/system.slice/dbus.service"),
        why=INHERITED,
    ),
    _line(
        "flags on v2",
        2,
        "cpuset-modify -ce -me -mm -lb /user.slice",
        _cpuset("/user.slice", cpu_exclusive=True, mem_exclusive=True, memory_migrate=True, sched_load_balance=True),
        controller=True,
        idle=True,
        refusal="no such flag",
        left=_explicit("/user.slice"),
        why="cgroup v2 has no flags: they ignore the options without a word, ours refuses them.",
    ),
    _line(
        "flags off on v2",
        2,
        "cpuset-modify -nce -nme -nmm -nlb /user.slice",
        _cpuset(
            "/user.slice", cpu_exclusive=False, mem_exclusive=False, memory_migrate=False, sched_load_balance=False
        ),
        controller=True,
        idle=True,
        refusal="no such flag",
        left=_explicit("/user.slice"),
        why="cgroup v2 has no flags: they ignore the options without a word, ours refuses them.",
    ),
    _line(
        "delete",
        2,
        "cpuset-delete /test",
        _cpuset("/test", state="absent"),
        controller=True,
        by_prior=True,
        setup="cpuset /test 2-3 1; start /test sleep 1000",
        undo_crash="FileNotFoundError",
        left={
            "cpuset /test .*": (".*", "absent"),
            "controller /test": (".*", "absent"),
            "place .* sleep": ("/test", "/"),
        },
        why=UNDO_ORDER,
    ),
    _line(
        "delete with a child",
        2,
        "cpuset-delete /test",
        _cpuset("/test", state="absent"),
        controller=True,
        setup="cpuset /test 2-3 1; cpuset /test/a; start /test/a sleep 1000",
        crash="Device or resource busy",
        differs={
            "(cpuset|effective) /test.*": (".*", "absent"),
            "place .* sleep": ("/test/a", "/"),
            "affinity .* sleep": ("2-3", "0-7"),
        },
        left={"controller /test": ("disabled", "enabled")},
        why="They do not delete the cpusets below; ours does, tasks first.",
    ),
    _line(
        "delete what is not there",
        2,
        "cpuset-delete /test",
        _cpuset("/test", state="absent"),
        controller=True,
        idle=True,
        crash="FileNotFoundError",
        why="Nothing is to be done, which ours takes for success.",
    ),
    _line(
        "move",
        2,
        "move-tasks /a /b",
        _move("/a", "/b"),
        controller=True,
        by_prior=True,
        setup="cpuset /a 0-3; cpuset /b 4-7; start /a sleep 1000; start /a taskset -c 2 sleep 1001",
        left={f"{FORGOTTEN}affinity .* sleep": ("2", "0-3")},
        why=PINNED,
    ),
    _line(
        "-v, to where others are",
        2,
        "--verbose move-tasks /a /b",
        _move("/a", "/b"),
        setup="cpuset /a; cpuset /b; start /a sleep 1000; start /b sleep 1001",
        says="moving all processes from CPUSet /a to CPUSet /b",
        left={"place .* sleep": ("/b", "/a")},
        why="Their undo moves back every task that is in the target, also those that had always been there.",
    ),
    Line(
        "two VMs, one undo file",
        2,
        (
            "-u /run/parity/undo0 cpu-governor performance C4-5",
            "-u /run/parity/undo0 cpu-governor performance C6-7",
        ),
        ((_governor("performance", "C4-5"),), (_governor("performance", "C6-7"),)),
        their_order=(f"{UNDO}0", f"{UNDO}0"),
        left={"governor policy4": ("schedutil", "performance")},
        why="The second VM overwrites the undo file of the first; ours keeps a claim for each.",
    ),
    Line(
        "two VMs that overlap in time",
        2,
        ("cpuset-modify --cpus C0-5 /system.slice", "cpuset-modify --cpus C0-3 /system.slice"),
        (
            (_cpuset("/system.slice", operation="mask", cpus="C6-7"),),
            (_cpuset("/system.slice", operation="mask", cpus="C4-5"),),
        ),
        controller=True,
        their_order=(f"{UNDO}0", f"{UNDO}1"),
        our_order=(0, 1),
        left={**_explicit("/system.slice"), "cpuset /system.slice cpus": ("", "0-5")},
        why="Each undo file leads back to what its own start found, also to the other VM's isolation.",
    ),
    _line(
        "restore twice",
        2,
        "cpuset-create --cpus C4-7 --mems N0-1 /test.slice",
        _cpuset("/test.slice", cpus="C4-7", mems="N0-1"),
        controller=True,
        their_order=(f"{UNDO}0", f"{UNDO}0"),
        our_order=(0, 0),
        undo_crash="FileNotFoundError",
        why="Their undo file does not know that it was used; our second revert finds nothing to do.",
    ),
    _line(
        "the README's full example, mended",
        2,
        "drop-caches cpu-governor performance C4-7 cpuset-modify --cpus C0-3 /system.slice"
        " cpuset-modify --cpus C0-3 /user.slice compact-memory irq-affinity mask C4-7",
        DROP,
        _governor("performance", "C4-7"),
        _cpuset("/system.slice", cpus="C0-3"),
        _cpuset("/user.slice", cpus="C0-3"),
        COMPACT,
        _irqs("mask", "C4-7"),
        controller=True,
        left={**_explicit("/system.slice"), **_explicit("/user.slice"), **ONE_CPU_4_7},
        why=INHERITED,
    ),
)

TEST = "cpuset /test 0-3 0-1"


def _flag(how: str, flag: str, value: bool) -> tuple[Line, Line]:
    """An option of cpuset-create and, with the flag the other way round before, of cpuset-modify."""
    wanted = {flag: value}
    return (
        _line(f"create {how}", 1, f"cpuset-create --cpus C4-7 {how} /test", _cpuset("/test", cpus="C4-7", **wanted)),
        _line(
            f"modify {how}",
            1,
            f"cpuset-modify {how} /test",
            _cpuset("/test", **wanted),
            setup=f"{TEST}; flag /test {flag} {int(not value)}",
            left=_flags_on("/test"),
            why=FLAGS,
        ),
    )


V1 = (
    _line(
        "create, with Debian's mounts",
        1,
        "cpuset-create --cpus C0-3 /test",
        _cpuset("/test", cpus="C0-3"),
        stock=True,
        crash="FileNotFoundError",
        differs={"(cpuset|effective) /test .*": ("absent", ".*"), "cgroup2 test": ("exists", "absent")},
        left={"cgroup2 test": ("absent", "exists")},
        why="They take the first cgroup mount for the cpuset hierarchy; on a hybrid host that is another.",
    ),
    _line("create", 1, "cpuset-create /test", _cpuset("/test"), by_prior=True),
    _line("create with a list", 1, "cpuset-create --cpus C0,2-3 /test", _cpuset("/test", cpus="C0,2-3")),
    _line("create by node", 1, "cpuset-create --cpus N1 --mems N1 /test", _cpuset("/test", cpus="N1", mems="N1")),
    _line(
        "create in one that is there",
        1,
        "cpuset-create --cpus C1 /test/a",
        _cpuset("/test/a", cpus="C1"),
        setup=TEST,
        undo_crash="PermissionError",
        left={"cpuset /test/a .*": ("absent", ".*")},
        why=f"{FLAGS} The kernel refuses cpu_exclusive below a cpuset without it, and their undo ends there.",
    ),
    _line(
        "create in one that is not there",
        1,
        "cpuset-create --cpus C1 /test/a",
        _cpuset("/test/a", cpus="C1"),
        crash="FileNotFoundError",
        differs={"(cpuset|effective) /test.*": ("absent", ".*")},
        why="They do not create the cpusets above; ours does.",
    ),
    *_flag("-ce", "cpu_exclusive", True),
    *_flag("--no-cpu-exclusive", "cpu_exclusive", False),
    *_flag("--mem-exclusive", "mem_exclusive", True),
    *_flag("-nme", "mem_exclusive", False),
    *_flag("-mm", "memory_migrate", True),
    *_flag("--no-mem-migrate", "memory_migrate", False),
    *_flag("--sched-load-balance", "sched_load_balance", True),
    *_flag("-nlb", "sched_load_balance", False),
    _line(
        "two exclusive cpusets",
        1,
        "cpuset-create --cpus C0-3 --cpu-exclusive /host cpuset-create --cpus C4-7 --cpu-exclusive /vm",
        _cpuset("/host", cpus="C0-3", cpu_exclusive=True),
        _cpuset("/vm", cpus="C4-7", cpu_exclusive=True),
        crash="OSError: .* Invalid argument",
        differs={"(cpuset|effective) /vm (cpus|mems|cpu_exclusive)": ("|0", "4-7|0-1|1")},
        left={"cpuset /(host|vm) .*": ("absent", ".*")},
        why="They first give a new cpuset all CPUs of its parent, which overlap with its exclusive sibling's.",
    ),
    _line(
        "modify CPUs",
        1,
        "cpuset-modify --cpus C0-1 /test",
        _cpuset("/test", cpus="C0-1"),
        setup=f"{TEST}; flag /test sched_load_balance 0",
        by_prior=True,
        left=_flags_on("/test"),
        why=FLAGS,
    ),
    _line(
        "modify memory nodes",
        1,
        "cpuset-modify --mems N1 /test",
        _cpuset("/test", mems="N1"),
        setup=TEST,
        left=_flags_on("/test"),
        why=FLAGS,
    ),
    _line(
        "modify the root",
        1,
        "cpuset-modify --no-sched-load-balance /",
        _cpuset("/", sched_load_balance=False),
        undo_crash="PermissionError",
        left={"cpuset / sched_load_balance": ("1", "0")},
        why="Their undo also writes the root's CPUs, which nobody may, and ends there.",
    ),
    _line(
        "modify an empty cpuset",
        1,
        "cpuset-modify --cpus C0-1 --mems N0 /test",
        _cpuset("/test", cpus="C0-1", mems="N0"),
        setup="cpuset /test",
        crash="UnexpectedToken",
        differs={"(cpuset|effective) /test (cpus|mems)": ("", "0-1|0")},
        why="They cannot read an empty list, which every cpuset has that mkdir made.",
    ),
    _line(
        "delete",
        1,
        "cpuset-delete /test",
        _cpuset("/test", state="absent"),
        by_prior=True,
        setup="cpuset /test 0-3 0; flag /test sched_load_balance 0; start /test sleep 1000",
        undo_crash="FileNotFoundError",
        left={"cpuset /test .*": (".*", "absent"), "place .* sleep": ("/test", "/")},
        why=UNDO_ORDER,
    ),
    _line(
        "delete with a child",
        1,
        "cpuset-delete /test",
        _cpuset("/test", state="absent"),
        setup=f"{TEST}; cpuset /test/a 1 0; start /test/a sleep 1000; start /test sleep 1001",
        crash="Device or resource busy",
        differs={
            "(cpuset|effective) /test.*": (".*", "absent"),
            "place .* sleep": ("/test/a", "/"),
            "affinity .* sleep": ("1", "0-7"),
        },
        left={"place .* sleep": ("/test", "/")},
        why="They move the tasks away, then find that there is a cpuset below, and lose the undo.",
    ),
    _line(
        "-v move",
        1,
        "-v move-tasks /a /b",
        _move("/a", "/b", kernel_threads=True),
        setup="cpuset /a 0-7 0-1; cpuset /b 0-3 0-1; start /a sleep 1000; start /a taskset -c 2,6 sleep 1001;"
        " start /b taskset -c 1 sleep 1002",
        by_prior=True,
        says="moving all processes from CPUSet /a to CPUSet /b",
        differs={"affinity .* sleep": ("0-3", "2")},
        left={"place .* sleep": ("/b", "/a"), "affinity .* sleep": ("1|2,6", "0-7")},
        why=f"Their undo moves back every task that is in the target, also those that had always been there. {PINNED}",
    ),
    _line(
        "the README's 6 cores",
        1,
        "cpuset-create --cpus C0-3 /host.slice move-tasks / /host.slice",
        _cpuset("/host.slice", cpus="C0-3"),
        _move("/", "/host.slice", kernel_threads=True),
        setup="start / taskset -c 1 sleep 1000; start / taskset -c 2,5 sleep 1001",
        differs={"affinity .* sleep": ("0-3", "1|2")},
        left={"affinity .* sleep": ("1|2,5", "0-7"), "affinity .* (kswapd|kcompactd)[01]": ("0-3|4-7", "0-7")},
        why=PINNED,
    ),
    _line(
        "the README's 6 cores, a VM runs",
        1,
        "cpuset-create --cpus C0-3 /host.slice move-tasks / /host.slice",
        _cpuset("/host.slice", cpus="C0-3"),
        _move("/", "/host.slice", kernel_threads=True),
        setup="cpuset /machine 4-7 0-1; start /machine sleep 1000",
        undo_crash="OSError: .* Invalid argument",
        left={
            "cpuset /host.slice .*": ("absent", ".*"),
            "affinity .* (kswapd|kcompactd)[01]": ("0-3|4-7", "0-7"),
        },
        why=f"{FLAGS} The kernel refuses cpu_exclusive beside the VM's cpuset, and their undo ends there.",
    ),
    _line(
        "the README's NUMA example",
        1,
        "cpuset-create --cpus N0 --mems N0 -mm /host.slice move-tasks / /host.slice",
        _cpuset("/host.slice", cpus="N0", mems="N0", memory_migrate=True),
        _move("/", "/host.slice", kernel_threads=True),
        setup="fill /; start / taskset -c 6 sleep 1000",
        left={
            "affinity .* sleep": ("6", "0-7"),
            "affinity .* python3": ("4-7", "0-7"),
            "affinity .* (kswapd|kcompactd)[01]": ("0-3|4-7", "0-7"),
        },
        why=PINNED,
    ),
    _line(
        "the README's delete",
        1,
        "cpuset-delete /host.slice",
        _cpuset("/host.slice", state="absent"),
        setup="cpuset /host.slice 0-3 0-1; start /host.slice sleep 1000",
        undo_crash="FileNotFoundError",
        left={"cpuset /host.slice .*": (".*", "absent"), "place .* sleep": ("/host.slice", "/")},
        why=UNDO_ORDER,
    ),
    _line(
        "caches, governors, memory, interrupts",
        1,
        "drop-caches cpu-governor performance N1 compact-memory irq-affinity mask N1",
        DROP,
        _governor("performance", "N1"),
        COMPACT,
        _irqs("mask", "N1"),
        left=ONE_CPU_4_7,
        why=ONE_CPU,
    ),
)

LINES = V2 + V1
