# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vfio-isolate 0.5.2 as a server: one JSON list of arguments a line, run in a fork that imported it already.

A command of its own would spend a second an emulated start on importing. The fork runs the program's own entry point,
with its own exit status and output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from typing import Any

THEIRS = "/opt/theirs"


class VfioIsolate:
    """The server's other end."""

    def __init__(self, cpuset_first: bool = False) -> None:
        """With `cpuset_first`, it sees the v1 cpuset hierarchy as the first cgroup mount, the one that it takes."""
        command = [sys.executable, "-m", __name__]
        if cpuset_first:
            # In a mount namespace of its own, from which every other cgroup mount is taken away.
            others = "awk '$3 ~ /^cgroup/ && $4 !~ /(^|,)cpuset(,|$)/ {print $2}' /proc/self/mounts"
            command = ["unshare", "--mount", "sh", "-c", f'umount $({others}) && exec "$0" "$@"', *command]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def run(self, arguments: list[str]) -> dict[str, Any]:
        """Run the program; its exit code and output."""
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(arguments) + "\n")
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()


def _serve() -> None:
    sys.path.insert(0, THEIRS)
    sys.argv = ["vfio-isolate"]
    from vfio_isolate.cli import run_cli

    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as output:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    sys.argv = ["vfio-isolate", *json.loads(line)]
                    os.dup2(output.fileno(), 1)
                    os.dup2(output.fileno(), 2)
                    run_cli()
                    code = 0
                except BaseException:  # as the interpreter would at the end of a program
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            _pid, status = os.waitpid(pid, 0)
            output.seek(0)
            answer = {"code": os.waitstatus_to_exitcode(status), "output": output.read()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
