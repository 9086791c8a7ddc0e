# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Runs a command on a host without Ansible."""

from __future__ import annotations

import os
from signal import SIGKILL
from typing import Sequence, Tuple


def run_command(argv: Sequence[str]) -> Tuple[int, str, str]:
    """Run a command without a shell: (exit code, standard output, standard error).

    Not with the module subprocess, whose import takes longer than most commands. It ends in time: systemctl itself
    gives up on a manager that does not answer.
    """
    nothing, out, err = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), os.memfd_create("out"), os.memfd_create("err")
    try:
        streams = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate((nothing, out, err))]
        child = os.posix_spawnp(argv[0], list(argv), os.environ, file_actions=streams)
        try:
            _child, status = os.waitpid(child, 0)
        except BaseException:  # a time limit: no command of ours continues after it
            os.kill(child, SIGKILL)
            os.waitpid(child, 0)
            raise
        texts = (os.pread(descriptor, os.fstat(descriptor).st_size, 0) for descriptor in (out, err))
        printed, complained = (text.decode(errors="replace") for text in texts)
    finally:
        for descriptor in (nothing, out, err):
            os.close(descriptor)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status), printed, complained
