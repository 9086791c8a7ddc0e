# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hook by itself, called as libvirt calls it: what it does, what it refuses, and that it holds nothing."""

from __future__ import annotations

import ctypes
import fcntl
import io
import json
import os
import random
import subprocess
import time

from module_utils._engine.hooks.events import Event
from module_utils._engine.hooks.libvirt import Libvirt
from module_utils._engine.kernel.host import Host
from module_utils._engine.paths import HOOK, LIBVIRT
from module_utils._host_files import unit_files
from module_utils._install import Installation

from .domains import PYTHON, install, logged, xml
from .ground import (
    CGROUP,
    JOURNAL,
    VM,
    assert_isolated,
    at_end,
    cpus,
    differences,
    engine,
    isolate,
    job,
    put_online,
    read,
    sh,
    snapshot,
    take_offline,
    unchanged,
    write,
)


def call(name: str, operation: str, sub: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Call the hook as libvirt does."""
    return subprocess.run([HOOK, name, operation, sub, "-"], input=given, capture_output=True, text=True, check=False)


def _refused(name: str, given: str, *words: str) -> None:
    """The domain may not start, with one sentence, and nothing has changed."""
    before = snapshot()
    done = call(name, "prepare", "begin", given)
    assert (done.returncode, done.stdout) == (1, ""), done
    sentence = done.stderr.strip()
    assert sentence.count("\n") == 0 and all(word in sentence for word in words), sentence
    print(sentence[:200])
    assert not os.path.exists(JOURNAL)
    unchanged(before, f"after: {sentence[:200]}")


def check_prepare_and_release() -> None:
    """A claim of the domain's name, made once, and gone with it; on standard output there is nothing."""
    install("one")
    before = snapshot()
    for _time in range(2):
        done = call("one", "prepare", "begin", xml("one", "4,5,6,7"))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
        assert_isolated()
        assert list(json.loads(read(JOURNAL))["claims"]) == ["one"]
    done = call("one", "release", "end", xml("one", "4,5,6,7"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    unchanged(before)
    assert not os.path.exists(JOURNAL)


def check_pins_to_offline_cpus() -> None:
    """Of a domain's CPUs those that are online count, and the log says so; one without any does not start."""
    install("one")
    since = time.time()
    take_offline(6)
    take_offline(7)
    done = call("one", "prepare", "begin", xml("one", "4,5,6,7"))
    assert done.returncode == 0, done
    assert read(f"{CGROUP}/machine.slice/cpuset.cpus.effective") == "4-5"
    assert "its vCPUs are pinned to CPUs 6-7, too, which are offline and not reserved" in logged(since)
    call("one", "release", "end", xml("one", "4,5,6,7"))
    assert engine().inspect()[0].claims == {}
    done = call("one", "prepare", "begin", xml("one", "6,7"))
    assert (
        done.returncode == 1
        and "none of these is online; online are 0-5. Put one of them online, or change <cputune><vcpupin"
        in done.stderr
    )
    assert engine().inspect()[0].claims == {}
    put_online(6)
    put_online(7)
    engine().revert()  # what is owed to threads that had requested these
    assert not os.path.exists(JOURNAL)


def check_other_events_do_nothing() -> None:
    """Whatever is configured, they succeed, print nothing (so that XML stays as it is), and change nothing."""
    install(default={})
    write(LIBVIRT.default, "this is not JSON")
    before = snapshot()
    for operation, sub in (
        ("reconnect", "begin"),
        ("attach", "begin"),
        ("migrate", "begin"),
        ("restore", "begin"),
        ("start", "begin"),
        ("started", "begin"),
        ("stopped", "end"),
        ("prepare", "end"),
        ("no-such-event", "-"),
    ):
        done = call("one", operation, sub, "<this is not XML")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), (operation, done)
    unchanged(before)


def check_hostile_input() -> None:
    """XML and names that may be anybody's: each has its sentence, and changes nothing."""
    install("loose", "one", default={})
    good = xml("one", "4,5")
    bomb = '<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    _refused("one", bomb + good, "document type")
    _refused("one", good.replace("<name>one", "<name>&b;"), "cannot be read", "undefined entity")
    _refused("one", good.replace("</domain>", " " * (10 << 20) + "</domain>"), "more than 1048576 are not read")
    _refused("one", good[:-9], "cannot be read")
    _refused("one", "", "cannot be read")
    _refused("one", xml("two", "4,5"), "that of the domain 'two'")
    _refused("one", xml("one", "4,x"), "cpuset='x'")
    _refused("one", xml("one", "4,9"), "CPU 9 is not online", "online are 0-7")
    _refused("one", xml("one", "0,1,2,3,4,5,6,7"), "all CPUs of this host")
    _refused("loose", xml("loose", ""), "does not say where its vCPUs run", "<vcpupin", "virsh edit loose")
    for name in ("..", "a/b", "../../../etc/passwd", "a\nb", "x" * 300, "\x1b[2J"):
        _refused(name, xml("one", "4,5"), "is not the name of a libvirt domain")
    _refused("$(touch owned)`id`;|&<>", xml("one", "4,5"), "that of the domain 'one'")
    assert not os.path.exists("owned")


def check_odd_names() -> None:
    """Names that libvirt allows and a shell would trip over."""
    install(default={})
    before = snapshot()
    for name in ("$(touch owned)`id`;|&'\"", "-n", "a b", "déjà vu", "%n%i"):
        escaped = name.replace("&", "&amp;").replace("<", "&lt;")
        assert call(name, "prepare", "begin", xml(escaped, "4,5")).returncode == 0
        assert list(json.loads(read(JOURNAL))["claims"]) == [name]
        assert call(name, "release", "end", xml(escaped, "4,5")).returncode == 0
        unchanged(before, f"after {name!r}")
    assert not os.path.exists("owned")


def check_configuration_is_root_s() -> None:
    """A configuration that others may write, or have written badly, is refused."""
    install("one")
    path, good = LIBVIRT.file("one"), xml("one", "4,5")
    for mode in (0o666, 0o664):
        os.chmod(path, mode)
        _refused("one", good, path, "users other than root may write it")
    os.chmod(path, 0o644)
    os.chmod(os.path.dirname(path), 0o777)
    _refused("one", good, path, "users other than root may write it or its directory")
    os.chmod(os.path.dirname(path), 0o755)
    os.chown(path, 65534, 65534)
    _refused("one", good, path, "users other than root may write it")
    os.chown(path, 0, 0)
    for text, words in (
        ("{", "cannot be read"),
        ("[1]", "it is not a JSON object"),
        ('{"isolate_strategy": "fast"}', "isolate_strategy is 'fast'; expected one of auto, partition"),
        ('{"isolate_irqs": "yes"}', "isolate_irqs is 'yes'; expected bool"),
        ('{"isolate_claim": "x"}', "has no option isolate_claim"),
        ('{"isolate_vm_cpus": "4-x"}', "isolate_vm_cpus: term 1, '4-x'"),
    ):
        write(path, text)
        _refused("one", good, words)


def check_claims_of_others() -> None:
    """A domain with the name of somebody else's claim neither takes it over nor gives it back."""
    install("host")
    isolate("host", "6-7")
    claimed = read(JOURNAL)
    done = call("host", "prepare", "begin", xml("host", "4,5"))
    assert done.returncode == 1 and "there is a claim 'host' already, and libvirt did not make it" in done.stderr, done
    assert call("host", "release", "end", xml("host", "4,5")).returncode == 0
    assert read(JOURNAL) == claimed
    assert_isolated({6, 7})


def check_time_limit() -> None:
    """A hook that does not get on ends in time, with a sentence and without a trace."""
    install(one={"timeout": 2})
    os.makedirs(os.path.dirname(JOURNAL), exist_ok=True)
    began = time.monotonic()
    before = snapshot()
    each = time.monotonic() - began
    with open("/run/vfio-isolation/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        _refused("one", xml("one", "4,5"), "2 s")
        assert time.monotonic() - began < 2 + 8 + 3 * each  # with two snapshots, however slow they are
    unchanged(before)


def check_released_whatever_is_configured() -> None:
    """A configuration that has become bad, or that others may write by now, keeps no claim from being given back."""
    before = snapshot()
    for spoil in (lambda path: write(path, "{"), lambda path: os.chmod(path, 0o666), os.unlink):
        install("one")
        assert call("one", "prepare", "begin", xml("one", "4,5")).returncode == 0
        spoil(LIBVIRT.file("one"))
        assert call("one", "release", "end").returncode == 0
        assert not os.path.exists(JOURNAL)
        unchanged(before)


def check_holds_nothing() -> None:
    """No process goes on behind the hook: nothing inherits its children, its pipes are closed when it ends."""
    install("one")
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: an orphan would be ours
    for operation, sub in (("prepare", "begin"), ("release", "end")):
        hook = subprocess.Popen(
            [HOOK, "one", operation, sub, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        os.set_blocking(hook.stdout.fileno(), False)
        hook.stdin.write(xml("one", "4,5").encode())
        hook.stdin.close()
        assert hook.wait() == 0
        assert hook.stdout.read() == hook.stderr.read() == b""  # the end, not None for nothing yet
        hook.stdout.close()
        hook.stderr.close()
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            continue
        raise AssertionError("the hook has left a child")


def check_random_sequences() -> None:
    """Three VMs in 50 random sequences of events: the host always has what the model says, in the end its baseline."""
    names = {"one": {4}, "two": {5, 6}, "three": {7}}
    chance = random.Random(4)
    light = {"isolate_drop_caches": False, "isolate_compact_memory": False}
    strategies = {"one": "auto", "two": "auto", "three": "partition"}
    install(**{name: {**light, "isolate_strategy": strategies[name]} for name in names})
    before = snapshot()
    for number in range(50):
        running: set[str] = set()
        for _event in range(chance.randint(2, 8)):
            name = chance.choice(sorted(names))
            # As libvirt does: one that runs is not prepared; a release may come twice, or without a prepare.
            operation = "release" if name in running or chance.random() < 0.2 else "prepare"
            _happens(name, operation, names[name])
            running = running - {name} if operation == "release" else running | {name}
            claimed = set().union(*(names[one] for one in running))
            there = set(json.loads(read(JOURNAL))["claims"]) if os.path.exists(JOURNAL) else set()
            assert there == running, (there, running)
            if claimed:
                assert_isolated(claimed)
            assert cpus(read(f"{CGROUP}/cpuset.cpus.effective")) == set(range(8)) - claimed
        for name in sorted(running):
            _happens(name, "release", names[name])
        unchanged(before, f"after sequence {number}")


def _happens(name: str, operation: str, pins: set[int]) -> None:
    """An event, in this process."""
    given = io.BytesIO(xml(name, ",".join(map(str, sorted(pins)))).encode())
    event = Event(name, operation, Host(), Libvirt(Host(), given))
    event.configure()
    event.carry_out()


def check_tasks_of_others_in_the_cgroup() -> None:
    """A container among the VMs: no partition is made around it, and the claim says why."""
    install("one")
    was_active = os.path.exists(f"{CGROUP}/machine.slice")
    sh(f"systemd-run --quiet --slice=machine.slice --unit=container {PYTHON} -c 'import time; time.sleep(1000)'")
    at_end(lambda: sh("systemctl stop container" if was_active else "systemctl stop container machine.slice"))
    pid = int(sh("systemctl show --value -p MainPID container"))
    began = time.time()
    assert call("one", "prepare", "begin", xml("one", "4,5,6,7")).returncode == 0
    assert_isolated(strategy="slices")
    assert os.sched_getaffinity(pid) == set(range(8))
    reason = "no CPUs are reserved for what runs in /machine.slice/container.service"
    assert f"strategy slices, because {reason}" in logged(began)


def check_persistent_claim() -> None:
    """The unit makes the claim when it starts and gives it back when it stops; taken away, nothing is left of it."""
    before, left = snapshot(), _ours()
    steps = [{step.name: step.arguments} for step in job()]
    name = "vfio-isolation@big\\x20vm.service"
    installation = Installation(Host(), check=False)
    at_end(lambda: Installation(Host(), check=False).stop_persisting(None))
    installation.persist("big vm", unit_files("big vm", steps, PYTHON))
    assert sh(f"systemctl is-enabled '{name}'") == "enabled"
    assert list(json.loads(read(JOURNAL))["claims"]) == ["big vm"]
    assert_isolated()
    assert installation.persist("big vm", unit_files("big vm", steps, PYTHON)) == []
    sh(f"systemctl stop '{name}'")
    left_of_it = [line for line in differences(before, snapshot()) if "vfio-isolation" not in line]
    assert not left_of_it and not os.path.exists(JOURNAL), left_of_it
    sh(f"systemctl start '{name}'")
    assert_isolated()
    assert installation.stop_persisting(["big vm"])
    assert_isolated()  # the claim stays, until it is reverted
    assert engine().revert(["big vm"]).changed
    unchanged(before)
    assert _ours() == left
    assert cpus(read(f"{CGROUP}/cpuset.cpus.effective")) >= VM


def _ours() -> list[str]:
    """Files that bear our name."""
    return sh("find /etc /usr/local /run/systemd -name '*vfio-isolation*' | sort").splitlines()
