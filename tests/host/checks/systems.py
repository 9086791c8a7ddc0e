# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd and the distribution do to a host while it is isolated: nothing is lost by it, on any system."""

from __future__ import annotations

import glob
import os
import subprocess
from collections.abc import Callable

from .affinities import BOUND
from .ground import (
    HOST,
    affinity,
    assert_isolated,
    at_end,
    bind_newcomers,
    engine,
    isolate,
    kernel_threads,
    revert,
    service,
    sh,
    snapshot,
    strategies,
    unchanged,
)

# The image has the package that is installed.
PACKAGE = "/var/cache/vfio-host/systemd_*.deb"


def _of_another_property() -> None:
    sh("systemctl set-property --runtime user.slice MemoryLow=1M")
    sh("systemctl set-property --runtime system.slice MemoryLow=1M")


def _reinstall() -> None:
    (package,) = glob.glob(PACKAGE)
    environment, nothing = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, subprocess.DEVNULL
    subprocess.run(["dpkg", "-i", package], env=environment, check=True, stdout=nothing, stderr=nothing)


EVENTS: dict[str, Callable[[], object]] = {
    "daemon-reload": lambda: sh("systemctl daemon-reload"),
    "daemon-reexec": lambda: sh("systemctl daemon-reexec"),
    "set-property of another property": _of_another_property,
    "the package systemd is installed anew": _reinstall,
    "daemon-reload after that": lambda: sh("systemctl daemon-reload"),
}


def _forget_properties() -> None:
    sh("rm -f /run/systemd/system.control/*.slice.d/50-MemoryLow.conf; systemctl daemon-reload")


def _lives_on(strategy: str) -> None:
    services = [service(f"{strategy}-{number}", cpus) for number, cpus in enumerate(("5", "3 5", "1 2"))]
    before, kernel = snapshot(), kernel_threads(*BOUND)
    outcome = isolate(strategy=strategy)
    assert outcome.notes["strategy"] == strategy, outcome.notes
    at_end(_forget_properties)
    for name, event in EVENTS.items():
        event()
        try:
            assert_isolated(strategy=strategy)
            assert [affinity(pid) for pid in services] == ["0-3", "3", "1-2"], [affinity(pid) for pid in services]
        except AssertionError as error:
            raise AssertionError(f"{strategy}, {name}: {error}") from error
        print(f"{strategy}, {name}: isolated", flush=True)
    assert os.sched_getaffinity(service(f"{strategy}-later")) <= HOST
    drift = engine().inspect()[1].changes
    assert drift == [], drift
    bind_newcomers(strategy)
    assert not isolate(strategy=strategy).changed
    revert()
    _forget_properties()
    unchanged(before)
    assert [affinity(pid) for pid in services] == ["5", "3,5", "1-2"]
    assert kernel_threads(*BOUND) == kernel


def check_what_systemd_does() -> None:
    """Reload, re-execution, another property, its own package: no CPU is given back, and a revert leaves no byte."""
    for strategy in strategies():
        _lives_on(strategy)
