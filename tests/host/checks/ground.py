# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ground that checks stand on: the kernel's state in full, the job, and a kill after the n-th write."""

from __future__ import annotations

import glob
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from module_utils._engine.errors import IsolationError
from module_utils._engine.kernel.host import Host
from module_utils._engine.model import Step
from module_utils._engine.steps.catalog import STEPS
from module_utils._engine.transaction.engine import Engine, Outcome

CGROUP = "/sys/fs/cgroup"
VM = {4, 5, 6, 7}
HOST = {0, 1, 2, 3}
JOURNAL = "/run/vfio-isolation/journal.json"

# What changes by itself between two snapshots, each with its reason.
TRANSIENT = (
    r"^cgroup .*/session-\d+\.scope/",  # an ssh session
    r"^cgroup .*/user-runtime-dir@\d+\.service/",
    r"^cgroup .*/user@\d+\.service/",
    r"^cgroup .*/system\.slice/(libvirtd|virtlogd)\.service/",  # start when they are needed, and end when they are not
    # systemd makes and removes those of units that do not run.
    r"^cgroup .*\.(service|socket|mount|swap)/cgroup\.subtree_control$",
    r"^thread \S+ irq/",  # follows its interrupt when that fires
    r"^thread \S+ rcu_exp_",  # RCU binds it anew when a CPU goes or comes
)

# The kernel binds these threads itself (workers and rescuers of workqueues, sugov, per-CPU threads): a cpuset may reset
# them, the kernel sets them again as it needs them, and nobody else can.
PF_NO_SETAFFINITY = 0x04000000
PF_KTHREAD = 0x00200000

_started: list[subprocess.Popen] = []
_undo: list[Callable[[], None]] = []


def sh(command: str) -> str:
    """What a shell command prints. Raises CalledProcessError."""
    return subprocess.run(command, shell=True, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def read(path: str) -> str:
    """A file's text; the error's number where it cannot be read."""
    try:
        with open(path, errors="replace") as stream:
            return stream.read().rstrip("\n")
    except OSError as error:
        return f"<errno {error.errno}>"


def write(path: str, value: str) -> None:
    """Write a kernel file."""
    with open(path, "w") as stream:
        stream.write(value)


def cpus(text: str) -> set[int]:
    """A kernel CPU list, read by other code than the engine's."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        low, _dash, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


def snapshot() -> dict[str, str]:
    """Every setting that isolation could touch, byte for byte."""
    state: dict[str, str] = {}
    for directory, _names, files in os.walk(CGROUP):
        for name in files:
            if (name.startswith("cpuset.") and "pressure" not in name) or name == "cgroup.subtree_control":
                state[f"cgroup {directory}/{name}"] = read(f"{directory}/{name}")
    for path in [*glob.glob("/proc/irq/*/smp_affinity_list"), "/proc/irq/default_smp_affinity"]:
        state[f"irq {path}"] = read(path)
    for path in glob.glob("/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"):
        state[f"cpufreq {path}"] = read(path)
    for path in glob.glob("/sys/devices/system/node/node*/hugepages/*/nr_hugepages"):
        state[f"hugepages {path}"] = read(path)
    for root in ("/run/systemd/system.control", "/run/systemd/transient", "/etc/systemd"):
        for directory, _names, files in os.walk(root):
            for name in files:
                if "AllowedCPUs" in name or "AllowedMemory" in name or "vfio" in name or root.startswith("/etc"):
                    state[f"file {directory}/{name}"] = read(f"{directory}/{name}")
    if not os.path.isdir("/run/systemd/system"):
        return {**state, **_threads()}
    units = sorted(
        {"machine.slice", *(name for name in os.listdir(CGROUP) if "." in name and os.path.isdir(f"{CGROUP}/{name}"))}
    )
    properties = "Id,AllowedCPUs,AllowedMemoryNodes,DropInPaths,NeedDaemonReload"
    shown = sh(f"systemctl show --all -p {properties} -- {' '.join(units)}")
    for block in shown.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines())
        state[f"unit {values.pop('Id')}"] = str(sorted(values.items()))
    return {**state, **_threads()}


def _threads() -> dict[str, str]:
    """Where each thread may run, and on cgroup v1 its cpuset."""
    state: dict[str, str] = {}
    on_v1 = ":cpuset:" in read("/proc/self/cgroup")
    for directory in glob.glob("/proc/[0-9]*/task/[0-9]*"):
        status, stat = read(f"{directory}/status"), read(f"{directory}/stat")
        allowed = re.search(r"^Cpus_allowed_list:\s*(.*)$", status, re.M)
        if allowed and ")" in stat:
            name = re.search(r"^Name:\s*(.*)$", status, re.M).group(1)
            fields = stat[stat.rindex(")") + 2 :].split()
            thread = f"{directory.split('/')[-1]}:{fields[19]} {name}"
            if not int(fields[6]) & PF_NO_SETAFFINITY:
                state[f"thread {thread}"] = allowed.group(1)
            place = re.search(r"^\d+:cpuset:(.*)$", read(f"{directory}/cgroup"), re.M) if on_v1 else None
            if place:
                state[f"thread-place {thread}"] = place.group(1)
    return state


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What differs, but for the transient; threads and units that came or went say nothing."""
    found = []
    for key in sorted({*before, *after}):
        if before.get(key) == after.get(key) or any(re.search(pattern, key) for pattern in TRANSIENT):
            continue
        if key.startswith(("thread", "unit")) and (key not in before or key not in after):
            continue
        found.append(f"{key}: {before.get(key)!r} -> {after.get(key)!r}")
    return found


def unchanged(before: dict[str, str], what: str = "") -> None:
    """Fail unless the host is as in a snapshot."""
    found = differences(before, snapshot())
    assert not found, "\n  ".join([f"not as before {what}:", *found])


def step(name: str, **given: Any) -> Step:
    """A step with its module's defaults."""
    spec = STEPS[name].ARGUMENTS
    assert not set(given) - set(spec), given
    return Step(name, {option: given.get(option, spec[option].get("default")) for option in spec})


def user_threads() -> Iterable[tuple[int, str]]:
    """Every thread that is not the kernel's, with its name."""
    for directory in glob.glob("/proc/[0-9]*/task/[0-9]*"):
        stat = read(f"{directory}/stat")
        if ")" in stat and not int(stat[stat.rindex(")") + 2 :].split()[6]) & PF_KTHREAD:
            yield int(directory.split("/")[-1]), read(f"{directory}/comm")


def job(vm: str = "4-7", **reserve: Any) -> list[Step]:
    """The steps of the role."""
    return [
        step("drop_caches"),
        step("cpu_governor", governor="performance", cpus=vm, if_unsupported="skip"),
        step("reserve_cpus", cpus=vm, **reserve),
        step("compact_memory"),
        step("irq_affinity", cpus=vm),
    ]


def engine(wrote: Callable[[str], None] | None = None, lock_timeout: float = 30.0) -> Engine:
    """A new engine, as each run has."""
    return Engine(Host(wrote=wrote), lock_timeout)


def isolate(claim: str = "host", vm: str = "4-7", **reserve: Any) -> Outcome:
    """The whole job."""
    return engine().apply(claim, job(vm, **reserve))


def revert(*claims: str) -> Outcome:
    """Give claims back; all where none is named."""
    return engine().revert(list(claims) or None)


def refused(call: Callable[[], Any]) -> str:
    """The sentence with which something is refused."""
    try:
        call()
    except IsolationError as error:
        return str(error)
    raise AssertionError("this should have been refused")


def kernel_is_at_least(*version: int) -> bool:
    """Whether Linux is this version or a newer one."""
    return tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2]) >= version


class NotThere(Exception):
    """This host does not have what a check is about; the message says why."""


def needs_partitions() -> None:
    """Raise NotThere on a host without isolated partitions."""
    if not kernel_is_at_least(6, 1):
        raise NotThere(f"Linux {os.uname().release} has no isolated cpuset partitions, which came with 6.1")


def strategies() -> tuple[str, ...]:
    """The strategies that this host has with cgroup v2."""
    return ("partition", "slices") if kernel_is_at_least(6, 1) else ("slices",)


def bind_newcomers(strategy: str) -> None:
    """Repeat the job until it has bound the kernel threads that began meanwhile (psimon comes with services)."""
    for _attempt in range(5):
        if not engine().inspect()[1].newcomers:
            return
        isolate(strategy=strategy)
    raise AssertionError("new kernel threads began all the time")


def killed_after(writes: int, call: Callable[[Callable[[str], None]], Any]) -> bool:
    """Run in a process of its own that is killed right after its n-th write; whether it got that far."""
    pid = os.fork()
    if pid == 0:
        done = 0

        def wrote(_what: str) -> None:
            nonlocal done
            done += 1
            if done == writes:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            call(wrote)
        except BaseException as error:  # the child must not run the parent's code
            print("the child failed:", error, file=sys.stderr)
            os._exit(2)
        os._exit(0)
    _pid, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed, see above"
    return os.WIFSIGNALED(status)


def assert_isolated(
    vm: set[int] = frozenset(VM),
    strategy: str = "",
    cgroup: str = "machine.slice",
    emulator: set[int] = frozenset(),
) -> None:
    """The kernel's word that nothing of the host may run on these CPUs; interrupts may on those of `emulator`.

    The strategy is the best that there is, if none is named.
    """
    strategy = strategy or strategies()[0]
    host = (HOST | VM) - vm
    for path in glob.glob(f"{CGROUP}/**/cpuset.cpus.effective", recursive=True):
        inside = path[len(CGROUP) + 1 :]
        if inside.startswith(f"{cgroup}/") or (inside == "cpuset.cpus.effective" and strategy == "slices"):
            continue
        assert not cpus(read(path)) & vm, f"{path}: {read(path)}"
    if strategy == "partition":
        assert read(f"{CGROUP}/{cgroup}/cpuset.cpus.partition") in ("isolated", "root")
        assert cpus(read(f"{CGROUP}/{cgroup}/cpuset.cpus.effective")) == vm
    for pid in (1, 2):
        assert os.sched_getaffinity(pid) <= host, f"pid {pid}: {os.sched_getaffinity(pid)}"
    vm = vm - emulator
    for path in glob.glob("/proc/irq/*/smp_affinity_list"):
        if cpus(read(path)) & vm:
            assert managed(path), f"{path}: {read(path)}"
    assert not int(read("/proc/irq/default_smp_affinity").replace(",", ""), 16) & sum(1 << cpu for cpu in vm)
    for policy in glob.glob("/sys/devices/system/cpu/cpufreq/policy*"):
        if cpus(read(f"{policy}/affected_cpus").replace(" ", ",")) & vm:
            assert read(f"{policy}/scaling_governor") == "performance", policy


def managed(path: str) -> bool:
    """Whether the kernel refuses to move an interrupt, asked by writing what it reads."""
    try:
        write(path, read(path))
    except OSError:
        return True
    return False


def use_model_of_kvm() -> None:
    """Have a /dev/kvm that a QEMU without KVM can hold open: nested KVM locks up an emulated host now and then."""
    if not os.path.exists("/dev/kvm"):
        os.mknod("/dev/kvm", 0o600 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null
        at_end(lambda: os.unlink("/dev/kvm"))


def take_offline(cpu: int) -> None:
    """Take a CPU offline; it is online again, with the interrupts where they were, when the check ends."""
    # The driver of the network card spreads its interrupts anew when a CPU goes or comes.
    masks = {path: read(path) for path in glob.glob("/proc/irq/*/smp_affinity_list") if not managed(path)}
    at_end(lambda: [write(path, mask) for path, mask in masks.items()])
    at_end(lambda: put_online(cpu))
    write(f"/sys/devices/system/cpu/cpu{cpu}/online", "0")


def put_online(cpu: int) -> None:
    """Put a CPU online."""
    write(f"/sys/devices/system/cpu/cpu{cpu}/online", "1")


def process(cpu_list: str = "", *, argv: Iterable[str] = ("sleep", "1000")) -> int:
    """Start a process of this check, bound to CPUs; it is ended when the check ends."""
    bound = ["taskset", "-c", cpu_list] if cpu_list else []
    child = subprocess.Popen([*bound, *argv], stdin=subprocess.DEVNULL)
    _started.append(child)
    time.sleep(0.3)
    return child.pid


def service(name: str, cpu_affinity: str = "", *properties: str) -> int:
    """Start a transient service of this check; its main process's id. It is stopped when the check ends."""
    given = [f"--property=CPUAffinity={cpu_affinity}"] if cpu_affinity else []
    given += [f"--property={value}" for value in properties]
    subprocess.run(["systemd-run", "--quiet", f"--unit={name}", *given, "sleep", "infinity"], check=True)
    at_end(lambda: subprocess.run(["systemctl", "stop", name], check=False, stderr=subprocess.DEVNULL))
    return int(sh(f"systemctl show --value -p MainPID {name}"))


def reload_and_apply(unit: str = "system.slice") -> None:
    """After a daemon-reload, systemd 257 applies files when it looks at a unit again: one starts in or beside it."""
    beside = unit if unit.endswith(".slice") else "system.slice"
    sh(f"systemctl daemon-reload; systemd-run --quiet --wait --slice={beside} true")


def affinity(thread: int) -> str:
    """A thread's CPUs, as the kernel lists them."""
    return re.search(r"^Cpus_allowed_list:\s*(.*)$", read(f"/proc/{thread}/status"), re.M).group(1)


def kernel_threads(*names: str) -> dict[str, str]:
    """The affinities of kernel threads by name."""
    found = {}
    for directory in glob.glob("/proc/[0-9]*"):
        name = read(f"{directory}/comm")
        if name.startswith(names) and not read(f"{directory}/cmdline"):
            found[name] = affinity(int(directory.split("/")[-1]))
    return found


def at_end(undo: Callable[[], Any]) -> None:
    """Undo what a check set up, when it ends; last first."""
    _undo.append(undo)


def end_processes() -> None:
    """End the processes that this check started."""
    while _started:
        child = _started.pop()
        child.kill()
        child.wait()


def start_clean() -> None:
    """irqbalance moves interrupts by itself: it only runs in the check that is about it."""
    sh("systemctl stop irqbalance" if os.path.isdir("/run/systemd/system") else "service irqbalance stop 2> /dev/null")
    assert not os.path.exists(JOURNAL), "an earlier check left its journal"


def clean_up() -> None:
    """Give back what the check left isolated, and undo what it set up."""
    if os.path.exists(JOURNAL):
        revert()
    while _undo:
        _undo.pop()()
    if os.path.exists(JOURNAL):  # what was owed as long as CPUs were offline
        revert()
