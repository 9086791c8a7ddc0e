# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What cannot be done gets one clear sentence, and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from .ground import (
    JOURNAL,
    affinity,
    assert_isolated,
    at_end,
    engine,
    isolate,
    job,
    read,
    refused,
    revert,
    service,
    sh,
    snapshot,
    step,
    strategies,
    take_offline,
    unchanged,
    write,
)


def _says(call: Callable[[], Any], *words: str) -> None:
    before = snapshot()
    sentence = refused(call)
    assert "\n" not in sentence and all(word in sentence for word in words), sentence
    print(sentence)
    unchanged(before, f"after: {sentence}")
    assert not os.path.exists(JOURNAL)


def check_bad_cpus() -> None:
    """A bad expression, a CPU that does not exist, all CPUs of the host."""
    _says(lambda: isolate(vm="4-7,nod:1"), "cpus", "term 2", "'nod:1'", "expected")
    _says(lambda: isolate(vm="6-9"), "'6-9'", "CPU 8-9 is not online", "online are 0-7")
    _says(lambda: isolate(vm="online"), "0-7 are all CPUs of this host")


def check_offline_cpu() -> None:
    """A CPU that is offline."""
    take_offline(7)
    _says(isolate, "CPU 7 is not online", "online are 0-6")


def check_governors() -> None:
    """A governor that the driver lacks; no cpufreq at all: an error, or a word when the role asked."""
    _says(lambda: engine().once(step("cpu_governor", governor="warp")), "policy0", "'warp'", "performance")
    sh("modprobe -r acpi-cpufreq")
    at_end(lambda: sh("modprobe acpi-cpufreq"))
    _says(lambda: engine().once(step("cpu_governor", governor="performance")), "no cpufreq policy")
    outcome = isolate()
    assert "no cpufreq policy" in outcome.skipped["cpufreq.governor"]
    revert()


def check_not_root() -> None:
    """Somebody else than root."""
    code = "from checks import ground\nprint(ground.refused(ground.isolate))"
    before = snapshot()
    printed = subprocess.run(
        [sys.executable, "-c", f"import os\nos.setgid(65534); os.setuid(65534)\n{code}"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert "needs root" in printed and printed.count("\n") == 1, printed
    unchanged(before)


def check_without_cap_sys_nice() -> None:
    """Root as in most containers: it could change the cpusets, and not give threads back what that resets."""
    pinned = service("pinned", "5", "User=nobody")
    isolate()
    before = snapshot()
    for call in ("ground.revert()", *(f"ground.isolate('x', '3', strategy='{name}')" for name in strategies())):
        code = f"from checks import ground\nprint(ground.refused(lambda: {call}))"
        command = ["setpriv", "--bounding-set=-sys_nice", sys.executable, "-c", code]
        assert "only with CAP_SYS_NICE" in subprocess.check_output(command, text=True)
    unchanged(before)
    revert()
    assert affinity(pinned) == "5"


def check_cgroups() -> None:
    """No such cgroup, and one that the kernel refuses."""
    move = step("move_tasks", source="/nowhere.slice", target="/system.slice")
    _says(lambda: engine().once(move), "source", "there is no cgroup /nowhere.slice")
    inner = "/system.slice/ssh.service/inner"
    _says(lambda: isolate(cgroup=inner, strategy="partition"), "/sys/fs/cgroup/system.slice", "reserve_cpus")
    _says(lambda: isolate(cgroup=inner), f"cgroup: {inner} is below /system.slice, where", "cannot be kept off")
    _says(lambda: isolate(cgroup="../etc"), "cgroup", "'../etc'")
    _says(lambda: engine().once(step("cpuset", path="/loose", cpus="1")), "/loose is not a systemd unit", "loose.slice")


def check_journals() -> None:
    """A journal that is corrupt, foreign, or points elsewhere is refused; one of another boot is discarded."""
    isolate()
    good = json.loads(read(JOURNAL))
    revert()
    at_end(lambda: os.path.exists(JOURNAL) and os.unlink(JOURNAL))
    elsewhere = {**good, "baseline": {"cgroup.cpus:/../../../etc/passwd": "0"}}
    for content, word in (
        ("{not json", "cannot be read"),
        (json.dumps({**good, "format": 99, "reader": 99}), "format 99"),
        (json.dumps(elsewhere), "etc/passwd"),
        (json.dumps({**good, "baseline": {"irq.affinity:1": "$(reboot)"}}), "$(reboot)"),
    ):
        write(JOURNAL, content)
        before = snapshot()
        for call in (isolate, revert):
            sentence = refused(call)
            assert word in sentence and JOURNAL in sentence, sentence
        unchanged(before)
        assert read(JOURNAL) == content
    write(JOURNAL, json.dumps(good))
    os.chown(JOURNAL, 1000, 1000)
    assert "users other than root" in refused(isolate)
    os.chown(JOURNAL, 0, 0)
    os.chmod(JOURNAL, 0o600)
    write(JOURNAL, json.dumps({**good, "boot_id": "another"}))
    outcome = revert()
    assert not outcome.changed and "another boot" in outcome.warnings[0], outcome


def check_two_runs() -> None:
    """Two runs at the same moment: the second waits, then proceeds; with a time limit it says so."""
    holder, waiter = engine(), engine()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with holder.journal_file.locked(1):
            held.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    sentence = refused(lambda: engine(lock_timeout=0.3).apply("host", job()))
    assert "another run" in sentence and "0.3 s" in sentence, sentence
    threading.Timer(1.0, release.set).start()
    began = time.monotonic()
    waiter.apply("host", job())
    assert time.monotonic() - began > 0.9
    assert_isolated()
    thread.join()
