# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The figures of `make bench`, each a ratio of medians of runs that alternate on one virtual host.

1. The role's second run, which changes nothing, against a playbook of one task with a module that does nothing.
2. The engine as it is installed on a host, without Ansible, against vfio-isolate, at the same job.
3. What the hook of libvirt adds to the start of a VM (its event prepare), against the hook script of vfio-isolate's
   README, as little mended as makes it run.
4. Natively, here: one look at the affinities of 5,000 threads.
5. Which of the collection's modules the role's second run imports on the host, and how long each takes: compiled
   there, as by a first run, and out of the cache.

With `--against CHECKOUT`, another checkout of this project (of before a change, say) takes part in the first three, in
alternation, and the ratios to it are printed as well.

With `--tasks`, on a host with cgroup v1: 10,000 sleeping tasks moved to another cpuset and returned by the engine, by
vfio-isolate, and by a C program that does nothing but write their ids.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# The times of each contender, in seconds.
Spent = dict[str, list[float]]

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "host"), str(ROOT / ".cache" / "collections")]

from conftest import VirtualHost, programs  # noqa: E402 - the path must be set first

PING = "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Do nothing\n      ansible.builtin.ping:\n"

# vfio-isolate's full example for this host, with the CPUs that its line for cpu-governor lacks. The cpuset controller
# is enabled beforehand, which it does not do by itself.
VFIO_ISOLATE = "cd /opt/theirs && python3 -c 'from vfio_isolate.cli import run_cli; run_cli()'"
THEIRS = (
    f"{VFIO_ISOLATE} -u /run/undo drop-caches"
    " cpu-governor performance C4-7 cpuset-modify --cpus C0-3 /system.slice cpuset-modify --cpus C0-3 /user.slice"
    " compact-memory irq-affinity mask C4-7"
)
THEIR_UNDO = f"{VFIO_ISOLATE} restore /run/undo"
OURS = {
    "do": "apply",
    "claim": "bench",
    "steps": [
        {"drop_caches": {}},
        {"cpu_governor": {"governor": "performance", "cpus": "4-7"}},
        {"cpuset": {"path": "/system.slice", "cpus": "0-3"}},
        {"cpuset": {"path": "/user.slice", "cpus": "0-3"}},
        {"compact_memory": {}},
        {"irq_affinity": {"cpus": "4-7"}},
    ],
}
# As pip installs it, and as its README calls it. Mended: the controller is enabled, cpu-governor has its CPUs.
INSTALL_THEIRS = """set -e
cp -r /opt/theirs/* /usr/local/lib/python3.11/dist-packages/
python3 -m compileall -q /usr/local/lib/python3.11/dist-packages
cat > /usr/local/bin/vfio-isolate <<'END'
#!/usr/bin/python3
# -*- coding: utf-8 -*-
import re
import sys
from vfio_isolate.cli import run_cli
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(run_cli())
END
cat > /opt/their-hook <<'END'
#!/bin/bash

HCPUS=0-3
MCPUS=4-7

UNDOFILE=/run/vfio-isolate-undo.bin

disable_isolation () {
    vfio-isolate \\
        restore $UNDOFILE

    taskset -pc 0-7 2  # kthreadd reset
}

enable_isolation () {
    echo +cpuset > /sys/fs/cgroup/cgroup.subtree_control
    vfio-isolate \\
        -u $UNDOFILE \\
        drop-caches \\
        cpu-governor performance C$MCPUS \\
        cpuset-modify --cpus C$HCPUS /system.slice \\
        cpuset-modify --cpus C$HCPUS /user.slice \\
        compact-memory \\
        irq-affinity mask C$MCPUS

    taskset -pc $HCPUS 2  # kthreadd only on host cores
}

case "$2" in
"prepare")
    enable_isolation
    ;;
"started")
    ;;
"release")
    disable_isolation
    ;;
esac
END
chmod +x /usr/local/bin/vfio-isolate /opt/their-hook
"""
DOMAIN = "<domain type='kvm'><name>bench</name><vcpu>4</vcpu><cputune>" + "".join(
    f"<vcpupin vcpu='{cpu - 4}' cpuset='{cpu}'/>" for cpu in range(4, 8)
)
SAME_GROUND = (
    "cd /sys/fs/cgroup && for cgroup in */ .; do echo -cpuset > $cgroup/cgroup.subtree_control || :; done;"
    " echo +cpuset > cgroup.subtree_control"
)
CPUSET = "/sys/fs/cgroup/cpuset"
TASKS = 10_000
# Two cpusets, and the tasks in one of them. vfio-isolate takes the first cgroup mount for that of the cpusets, so it is
# given a mount namespace where it is; its own time is taken inside of that.
READY = f"""set -e
for name in from to; do
    mkdir -p {CPUSET}/$name
    cat {CPUSET}/cpuset.mems > {CPUSET}/$name/cpuset.mems
    cat {CPUSET}/cpuset.cpus > {CPUSET}/$name/cpuset.cpus
done
cat > /run/theirs <<'END'
umount $(awk '$3 ~ /^cgroup/ && $4 !~ /cpuset/ {{print $2}}' /proc/mounts)
cd /opt/theirs
S=$(date +%s%N)
python3 -c 'from vfio_isolate.cli import run_cli; run_cli()' "$@" || exit 1
echo $(($(date +%s%N) - S))
END
echo $$ > {CPUSET}/from/tasks
echo $$ > /sys/fs/cgroup/pids/tasks
setsid sh -c 'sleep 100000 | /opt/isolation/programs/sleepers {TASKS} > /run/sleepers' < /dev/null > /dev/null 2>&1 &
echo $$ > {CPUSET}/tasks
until grep -q ready /run/sleepers; do sleep 0.2; done
"""
INSTALLED = "/usr/local/lib/vfio-isolation"
CODE = "/run/vfio-isolation/code"
HOOK = "/etc/libvirt/hooks/qemu.d/vfio-isolation"


class Checkout:
    """This checkout, or another one that it is compared with."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        # Two are installed beside each other.
        self.installed = INSTALLED if root == ROOT else f"{INSTALLED}-{name}"
        self.hook = HOOK if root == ROOT else f"/opt/hook-{name}"
        # Up to 0.1.0, the engine's files lay flat in module_utils.
        is_flat = not (root / "plugins" / "module_utils" / "_engine").exists()
        self.runner = f"/usr/bin/python3 -I -S {self.installed} {'_runner' if is_flat else 'runner'}"
        link = root / ".cache" / "collections" / "ansible_collections" / "vfio" / "isolation"
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(root)


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def report(what: str, ours: list[float], theirs: list[float]) -> None:
    """Print both medians and their ratio."""
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"{what}: {mine:.2f} s against {other:.2f} s, ratio {mine / other:.2f} (medians of {len(ours)}, alternating)")


def report_all(spent: Mapping[str, Spent], first: str) -> None:
    """Print the ratios of one contender to all others."""
    for what, taken in spent.items():
        for other in taken:
            if other != first:
                report(f"{what}, against {other}", taken[first], taken[other])


def alternate(contenders: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int) -> dict[str, Spent]:
    """What each contender took, by what it measures: each runs as often in each place of the order.

    What comes first may find another ground than what comes next. The first turn of all is not counted: Python
    compiles, and caches fill.
    """
    names = list(contenders)
    spent: dict[str, Spent] = {}
    for number in range(-len(names), len(names) * rounds):
        start = number % len(names)
        for name in [*names[start:], *names[:start]]:
            for what, taken in contenders[name]().items():
                if number >= 0:
                    spent.setdefault(what, {}).setdefault(name, []).append(taken)
    return spent


def play(host: VirtualHost, playbook: str, *arguments: str, root: Path = ROOT, **environment: str) -> None:
    """Run a playbook, which must succeed."""
    subprocess.run(
        ["ansible-playbook", "-i", host.inventory, playbook, "-e", "isolate_vm_cpus=4-7", *arguments],
        cwd=root,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def on_host(host: VirtualHost, command: str, request: object = None) -> float:
    """The time of a command on the host, measured there."""
    given = b"" if request is None else json.dumps(request).encode()
    run = f"( {command} ) > /run/bench.out 2>&1 || {{ cat /run/bench.out; exit 1; }}"
    timed = f"S=$(date +%s%N); {run}; echo $(($(date +%s%N) - S))"
    done = host.run(timed, given=given)
    assert done.returncode == 0, done.stdout
    return int(done.stdout.split()[-1]) / 1e9


def role_against_no_op(host: VirtualHost, checkouts: list[Checkout], rounds: int) -> None:
    """The first figure, and the fifth."""
    no_op = ROOT / ".cache" / "bench" / "no_op.yml"
    no_op.write_text(PING)
    what = "the role's second run"

    def second_run(root: Path) -> dict[str, float]:
        # Each on its own journal: an older checkout may not read that of a newer one.
        play(host, "playbooks/isolate.yml", root=root)
        taken = {what: seconds(lambda: play(host, "playbooks/isolate.yml", root=root))}
        play(host, "playbooks/revert.yml", root=root)
        return taken

    contenders = {checkout.name: functools.partial(second_run, checkout.root) for checkout in checkouts}
    spent = alternate(
        {**contenders, "a no-op playbook": lambda: {what: seconds(lambda: play(host, str(no_op)))}}, rounds
    )
    report_all(spent, checkouts[0].name)
    if len(checkouts) > 1:
        report(f"before: {what}, against a no-op playbook", spent[what]["before"], spent[what]["a no-op playbook"])
    play(host, "playbooks/isolate.yml")
    imported_modules(host)
    play(host, "playbooks/revert.yml")


def imported_modules(host: VirtualHost) -> None:
    """The fifth figure."""
    play(host, "playbooks/isolate.yml", ANSIBLE_KEEP_REMOTE_FILES="1")
    newest = "ls -t ~/.ansible/tmp/*/AnsiballZ_transaction.py | head -n 1"
    pattern = r"import time:\s+(\d+) \|\s+\d+ \|\s+ansible_collections\.vfio\.isolation\.plugins\.(\S+)"
    for how, before, after in (
        ("compiled on the host", f"mv {CODE} {CODE}.away", f"mv {CODE}.away {CODE}"),
        ("imported out of the cache", "true", "true"),
    ):
        done = host.run(f"{before}; python3 -X importtime $({newest}); {after}", timeout=300)
        rows = sorted(((int(spent), name) for spent, name in re.findall(pattern, done.stdout)), reverse=True)
        assert rows, done.stdout
        print(f"the role's second run, {how}: {len(rows)} modules, {sum(row[0] for row in rows) / 1000:.0f} ms")
        for spent, name in rows:
            print(f"  {spent / 1000:6.1f} ms  {name}")
    host.run("rm -rf ~/.ansible/tmp")


def install(host: VirtualHost, checkouts: list[Checkout]) -> None:
    """Install the runner of each checkout, and its hook, which isolates for every domain."""
    everything = ROOT / ".cache" / "bench" / "everything.json"
    everything.write_text(json.dumps({"libvirt_hook_default": {}}))
    for checkout in reversed(checkouts):  # this one last, in its place
        play(host, "playbooks/libvirt_hook.yml", "-e", f"@{everything}", root=checkout.root)
        if checkout.root != ROOT:
            done = host.run(
                f"rm -rf {checkout.installed}; mv {INSTALLED} {checkout.installed};"
                f" sed 's,{INSTALLED},{checkout.installed},' {HOOK} > {checkout.hook};"
                f" chmod +x {checkout.hook}; rm {HOOK}"
            )
            assert done.returncode == 0, done.stdout


def engine_against_vfio_isolate(host: VirtualHost, checkouts: list[Checkout], rounds: int) -> None:
    """The second figure."""

    def on_the_same_ground(job: Callable[[], float], undo: Callable[[], float]) -> dict[str, float]:
        taken = {"the engine, the same job": job(), "the engine's revert": undo()}
        # vfio-isolate leaves the controller on further down, and its undo makes inherited lists explicit.
        on_host(host, SAME_GROUND)
        return taken

    on_host(host, SAME_GROUND)
    contenders = {
        checkout.name: functools.partial(
            on_the_same_ground,
            functools.partial(on_host, host, checkout.runner, OURS),
            functools.partial(on_host, host, checkout.runner, {"do": "revert"}),
        )
        for checkout in checkouts
    }
    contenders["vfio-isolate"] = functools.partial(
        on_the_same_ground,
        functools.partial(on_host, host, THEIRS),
        functools.partial(on_host, host, THEIR_UNDO),
    )
    report_all(alternate(contenders, rounds), checkouts[0].name)


def hook_against_their_hook(host: VirtualHost, checkouts: list[Checkout], rounds: int) -> None:
    """The third figure."""
    done = host.run(INSTALL_THEIRS)
    assert done.returncode == 0, done.stdout
    hooks = {checkout.name: checkout.hook for checkout in checkouts}
    hooks["vfio-isolate"] = "/opt/their-hook"
    host.run("cat > /run/bench.xml", given=f"{DOMAIN}</cputune></domain>".encode())
    host.run("systemctl start machine.slice")  # as it is where libvirt runs
    events = {"prepare begin": "what the hook adds to a VM's start", "release end": "what the hook adds to its end"}

    def start_and_end(hook: str) -> dict[str, float]:
        taken = {what: on_host(host, f"{hook} bench {event} - < /run/bench.xml") for event, what in events.items()}
        on_host(host, SAME_GROUND)
        on_host(host, "echo -cpuset > /sys/fs/cgroup/cgroup.subtree_control")
        return taken

    contenders = {name: functools.partial(start_and_end, hook) for name, hook in hooks.items()}
    report_all(alternate(contenders, rounds), checkouts[0].name)


def ten_thousand_tasks(host: VirtualHost, runner: str, rounds: int) -> None:
    """The figures of `--tasks`."""
    done = host.run(READY, timeout=300)
    assert done.returncode == 0, done.stdout
    move = {"do": "apply", "claim": "bench", "steps": [{"move_tasks": {"source": "/from", "target": "/to"}}]}
    names = ("ours", "our revert", "theirs", "their restore", "C", "C back")
    spent: dict[str, list[float]] = {name: [] for name in names}
    kernel: dict[str, list[float]] = {"C": [], "C back": []}
    for _round in range(rounds):
        for name, request, place in (("ours", move, "to"), ("our revert", {"do": "revert"}, "from")):
            spent[name].append(on_host(host, runner, request))
            _all_in(host, place)
        for name, arguments, place in (
            ("theirs", "-u /run/undo move-tasks /from /to", "to"),
            ("their restore", "restore /run/undo", "from"),
        ):
            done = host.run(f"unshare --mount sh /run/theirs {arguments}")
            assert done.returncode == 0, done.stdout
            spent[name].append(int(done.stdout.split()[-1]) / 1e9)
            _all_in(host, place)
        for name, source, target in (("C", "from", "to"), ("C back", "to", "from")):
            mover = f"/opt/isolation/programs/mover {CPUSET}/{source}/tasks {CPUSET}/{target}/tasks"
            done = host.run(mover)
            _number, wall, system = (float(word) for word in done.stdout.split())
            spent[name].append(wall)
            kernel[name].append(system)
            _all_in(host, target)
    medians = {name: statistics.median(values[1:]) for name, values in spent.items()}
    system = sum(statistics.median(values[1:]) for values in kernel.values())
    mine = medians["ours"] + medians["our revert"]
    other = medians["theirs"] + medians["their restore"]
    print(", ".join(f"{name} {value:.2f} s" for name, value in medians.items()))
    report(f"{TASKS} tasks moved and returned, against vfio-isolate", [mine], [other])
    print(f"the C program's kernel time: {system:.2f} s, ratio {mine / system:.1f}")


def _all_in(host: VirtualHost, name: str) -> None:
    number = int(host.run(f"wc -l < {CPUSET}/{name}/tasks").stdout)
    assert number >= TASKS, f"{number} tasks in {name}"


def five_thousand_threads() -> None:
    """The fourth figure: what the engine asks of each thread, here, of threads of this process."""
    from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.host import Host
    from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.threads import pinned

    done = threading.Event()
    threading.stack_size(64 << 10)
    threads = [threading.Thread(target=done.wait) for _number in range(5000)]
    try:
        for thread in threads:
            thread.start()
        ids = [int(name) for name in os.listdir("/proc/self/task")]
        effective = frozenset(os.sched_getaffinity(0))
        for number in ids[::10]:
            os.sched_setaffinity(number, {min(effective)})
        host = Host()
        spent = min(seconds(lambda: [pinned(host, number, effective) for number in ids]) for _round in range(5))
    finally:
        done.set()
    print(f"{len(ids)} threads, one in ten pinned, looked at natively: {spent:.3f} s (best of 5)")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", action="store_true", help="on a host with cgroup v1: the figures of moving tasks")
    parser.add_argument("--rounds", type=int, default=3, help="how often each runs in each place of the order")
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--only", choices=["role", "engine", "hook"], help="one of the figures")
    options = parser.parse_args()
    host = VirtualHost(os.environ["VFIO_INVENTORY"])
    checkouts = [Checkout("ours", ROOT)]
    if options.against:
        checkouts.append(Checkout("before", options.against.resolve()))
    host.put({"programs": programs()}, "/opt/isolation")
    host.put({".": ROOT / ".cache" / "bench" / "theirs"}, "/opt/theirs")
    host.run("systemctl stop irqbalance")
    install(host, checkouts)
    if options.tasks:
        ten_thousand_tasks(host, checkouts[0].runner, options.rounds + 1)
        return
    if options.only is None:
        five_thousand_threads()
    if options.only in (None, "role"):
        role_against_no_op(host, checkouts, options.rounds)
    if options.only in (None, "engine"):
        engine_against_vfio_isolate(host, checkouts, options.rounds)
    if options.only in (None, "hook"):
        hook_against_their_hook(host, checkouts, options.rounds)
    play(host, "playbooks/libvirt_hook.yml", "-e", "libvirt_hook_state=absent")


if __name__ == "__main__":
    main()
