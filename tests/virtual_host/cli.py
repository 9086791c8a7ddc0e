# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtual host's command line: `python3 tests/virtual_host/cli.py --help`; the package virtual_host says more."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType

from virtual_host import FLAVOURS, SUITES, VirtualHost, VirtualHostError, build, virtual_hosts
from virtual_host.host import BOOT_SECONDS
from virtual_host.recipe import DEFAULT_SUITE


def main() -> int:
    """Do one command; errors are one sentence and exit status 1."""
    signal.signal(signal.SIGTERM, _leave)
    arguments = _parser().parse_args()
    try:
        _do(arguments)
    except VirtualHostError as error:
        print(f"virtual host: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _do(arguments: argparse.Namespace) -> None:
    if arguments.command == "build":
        print(build(arguments.flavour, arguments.suite).directory)
        return
    if arguments.command == "stop" and arguments.all:
        for host in virtual_hosts():
            host.stop()
        return
    host = VirtualHost(arguments.name)
    if arguments.command == "start":
        host.start(arguments.flavour, arguments.suite, cmdline=arguments.cmdline, timeout=arguments.timeout)
        print(host.inventory)
    elif arguments.command == "stop":
        host.stop()
    else:
        ssh = host.ssh_command()
        if arguments.command == "ssh":
            os.execvp(ssh[0], [*ssh, *arguments.remote_command])
        print(host.inventory if arguments.command == "inventory" else host.console_log)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="virtual_host", description="A virtual VFIO host for tests.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, named: bool = True, flavoured: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if named:
            sub.add_argument("--name", default="default", help="which host (default: %(default)s)")
        if flavoured:
            sub.add_argument("--flavour", default="light", choices=list(FLAVOURS), help="which packages")
            sub.add_argument("--suite", default=DEFAULT_SUITE, choices=SUITES, help="which Debian")
        return sub

    command("build", "Build the image, unless it is in the cache.", named=False, flavoured=True)
    start = command("start", "Boot a host, unless it runs, and print the path of its inventory.", flavoured=True)
    start.add_argument("--cmdline", default="", metavar="EXTRA", help="more for the kernel's command line")
    start.add_argument("--timeout", default=BOOT_SECONDS, type=float, metavar="S", help="of one boot, in seconds")
    command("inventory", "Print the path of a running host's inventory.")
    command("console", "Print the path of a running host's console log.")
    ssh = command("ssh", "Run a command on a host.")
    ssh.add_argument("remote_command", nargs="*", metavar="CMD")
    stop = command("stop", "End a host and remove its files.")
    stop.add_argument("--all", action="store_true", help="all hosts")
    return parser


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
