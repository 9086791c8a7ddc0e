# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Telling a person what goes on, and running the controller's tools in their sight."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from .errors import VirtualHostError


def say(text: str) -> None:
    """Tell a person; standard output is kept for the answer that a program reads."""
    print(f"virtual host: {text}", file=sys.stderr, flush=True)


def run(command: list[str]) -> None:
    """Run a tool to its end; when interrupted, end it and all that it started, and let it tidy up before going on.

    It gets a process group of its own, for mmdebstrap hangs up on its whole group when it fails.
    """
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    except FileNotFoundError as error:
        raise not_installed(command[0]) from error
    try:
        status = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if status != 0:
        message = f"{command[0]} failed (exit status {status}); what it said is above."
        raise VirtualHostError(message)


def not_installed(program: str) -> VirtualHostError:
    """Say that a tool is missing, and where the list of all of them is."""
    return VirtualHostError(f"{program} is not installed; tests/virtual_host/packages.txt lists the Debian packages.")
