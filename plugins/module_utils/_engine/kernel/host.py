# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""The only place where this collection reads and writes a host: files, commands, thread affinities.

Everything else asks here, so a test can put a temporary tree, a recorder of writes or a fault in its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import Callable, ContextManager, List, Optional, Sequence, Tuple

from ..errors import IsolationError, NeedsCapability, NeedsRoot, Refused, Skipped, failed
from ..text.cpus import CpuSet
from .lock import locked

Run = Callable[[Sequence[str]], Tuple[int, str, str]]

CAP_SYS_NICE = 23  # include/uapi/linux/capability.h
# What is returned for a directory that does not exist (any more), or that no directory can be.
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENODEV, errno.ENAMETOOLONG}
# What says nothing about the file that was to be read: who takes it for gone forgets what it had before.
NOT_OF_THE_FILE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM}

SELINUX = "/sys/fs/selinux"
RESTORECON = ("/usr/sbin/restorecon", "/sbin/restorecon")


def _run_command(argv: Sequence[str]) -> Tuple[int, str, str]:
    from .command import run_command  # under Ansible, AnsibleModule runs commands

    return run_command(argv)


class Host:
    """A Linux host, seen below `root` (another path in a container that has the host's `/proc` and `/sys` there).

    `wrote` is called with a description after each single write that reached the kernel, systemd or the journal;
    `writes` counts them.
    """

    _kept: Tuple[str, int] = ("", -1)  # the one file that is kept open, with its descriptor

    def __init__(self, root: str = "/", run: Run = _run_command, wrote: Optional[Callable[[str], None]] = None) -> None:
        self.root = root.rstrip("/")
        self._run = run
        self._wrote = wrote
        self.writes = 0

    def note_write(self, what: str) -> None:
        """Count a write, and report it to `wrote`."""
        self.writes += 1
        if self._wrote:
            self._wrote(what)

    def path(self, path: str) -> str:
        """Where an absolute path of the host is seen from here."""
        return self.root + path

    def exists(self, path: str) -> bool:
        """Whether a file or directory exists."""
        return os.path.exists(self.path(path))

    def list(self, path: str) -> List[str]:
        """The names in a directory, sorted; none if there is no such directory. Raises IsolationError."""
        try:
            return sorted(os.listdir(self.path(path)))
        except OSError as error:
            if error.errno not in GONE:
                raise failed(path, "listed", error) from None
            return []

    def links(self, path: str) -> List[str]:
        """Where the links in a directory lead to; none if it does not exist (any more) or must not be read."""
        found = []
        with contextlib.suppress(OSError):
            for name in os.listdir(self.path(path)):
                with contextlib.suppress(OSError):  # it is gone meanwhile, as a file that was closed
                    found.append(os.readlink(f"{self.path(path)}/{name}"))
        return found

    def read(self, path: str) -> Optional[str]:
        """A file's text without its last newline; None if there is no such file, or it was removed meanwhile.

        Raises IsolationError if it may well exist but must not be read, or if there is no memory or descriptor for it.
        """
        try:
            descriptor = os.open(self.path(path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return b"".join(iter(lambda: os.read(descriptor, 1 << 16), b"")).decode(errors="replace").rstrip("\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            # /proc and /sys return ENOENT, ESRCH, ENODEV, EIO or EOPNOTSUPP for what does not exist (any more).
            if error.errno in NOT_OF_THE_FILE:
                raise failed(path, "read", error) from None
            return None

    def read_own(self, path: str) -> Optional[str]:
        """The text of a file of our own, which root will act on; None if it does not exist.

        Raises IsolationError if users other than root may write it or its directory, or if it is not a file.
        """
        try:
            # Not to wait for whoever writes into a pipe.
            with open(os.open(self.path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
                statuses = [os.fstat(stream.fileno()), os.stat(os.path.dirname(self.path(path)))]
                if not stat.S_ISREG(statuses[0].st_mode):
                    raise IsolationError(f"{path} is not a file; inspect it, and remove it")
                text = stream.read().decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise failed(path, "read", error) from None
        except ValueError as error:  # a name that no file can have
            raise IsolationError(f"{path} cannot be read: {error}") from None
        if any(one.st_uid != os.geteuid() or one.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for one in statuses):
            raise IsolationError(
                f"{path}: users other than root may write it or its directory, so it was not read and nothing was"
                " changed; inspect it, then make root own both and remove write permission for group and others"
            )
        return text

    def write(self, path: str, value: str, keep_open: bool = False) -> None:
        """Write a kernel file in one write(2), as the kernel wants it. Raises Refused.

        `keep_open` is for a file that takes one value after the other, such as a cgroup's list of tasks. Not for
        /proc/sys, where all writes to an open file except the first are ignored.
        """
        text = (value + "\n").encode()
        try:
            if keep_open:
                os.write(self._opened(path), text)
            else:
                descriptor = os.open(self.path(path), os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(descriptor, text)
                finally:
                    os.close(descriptor)
        except OSError as error:
            if keep_open and error.errno == errno.ENODEV:  # it was removed, and may exist again
                self._let_go()
            raise Refused.of(error, path, value) from error
        self.note_write(f"{path} = {value}")

    def _opened(self, path: str) -> int:
        if self._kept[0] != path:
            self._let_go()
            self._kept = (path, os.open(self.path(path), os.O_WRONLY | os.O_CLOEXEC))
        return self._kept[1]

    def _let_go(self) -> None:
        if self._kept[0]:
            os.close(self._kept[1])
            self._kept = ("", -1)

    __del__ = _let_go

    def probe_errno(self, path: str, text: str) -> int:
        """The errno that the kernel returns for a text that cannot change anything; 0 if it accepts it."""
        try:
            descriptor = os.open(self.path(path), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            return error.errno or 0
        return 0

    def writable(self, path: str) -> bool:
        """Whether a file's mode lets its owner write; of one that is gone, the write will tell."""
        try:
            return bool(os.stat(self.path(path)).st_mode & stat.S_IWUSR)
        except OSError:
            return True

    def mode(self, path: str) -> Optional[int]:
        """The permission bits of a file that root owns; None if it does not exist, -1 if it is something else."""
        try:
            status = os.lstat(self.path(path))
        except OSError as error:
            return None if error.errno in GONE else -1
        own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        return stat.S_IMODE(status.st_mode) if own else -1

    def make_directory(self, path: str) -> None:
        """Make a cgroup. Raises Refused."""
        self._directory(os.mkdir, path, "mkdir")

    def remove_directory(self, path: str) -> None:
        """Remove a cgroup. Raises Refused."""
        self._directory(os.rmdir, path, "rmdir")

    def _directory(self, call: Callable[[str], None], path: str, verb: str) -> None:
        try:
            call(self.path(path))
        except OSError as error:
            raise Refused.of(error, path, verb) from error
        self.note_write(f"{verb} {path}")

    def directories(self, path: str) -> Optional[List[str]]:
        """The names of the directories in a directory, sorted; None if it does not exist any more.

        Raises IsolationError.
        """
        try:
            with os.scandir(self.path(path)) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except OSError as error:
            if error.errno not in GONE:
                raise failed(path, "listed", error) from None
            return None

    def save(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of our own, completely or not at all, and durably. Raises Refused."""
        from .own_files import replace  # a run that changes nothing saves nothing

        replace(self.path(path), path, text.encode(), mode)
        self.note_write(f"saved {path}")

    def keep(self, path: str) -> Callable[[], None]:
        """Remember what is at a path: a file, a link in its place, or nothing.

        Returns a function that restores it, byte for byte, with its owner and mode; that function raises Refused.
        """
        from .own_files import keep

        restore = keep(self.path(path), path)
        if restore is None:
            return lambda: self.remove(path)
        put_back = restore

        def restored() -> None:
            put_back()
            self.note_write(f"saved {path}")

        return restored

    def remove(self, path: str) -> None:
        """Remove a file of our own, if it exists. Raises Refused."""
        try:
            os.unlink(self.path(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:  # a directory, say
            raise Refused.of(error, path, "its removal") from error
        self.note_write(f"removed {path}")

    def remove_empty(self, path: str) -> None:
        """Remove a directory if it exists and is empty."""
        try:
            os.rmdir(self.path(path))
        except OSError:
            return
        self.note_write(f"removed {path}")

    def remove_tree(self, path: str) -> None:
        """Remove a directory of our own with all that is in it, if it exists."""
        import shutil  # only uninstalling needs it

        shutil.rmtree(self.path(path), ignore_errors=True)

    def label(self, paths: Sequence[str]) -> None:
        """Give files and directories the labels that SELinux has for them, see restorecon(8). Raises Refused."""
        if self.exists(f"{SELINUX}/enforce"):
            program = next((path for path in RESTORECON if self.exists(path)), None)
            there = [path for path in paths if self.exists(path)]
            if program and there:
                self.change(program, "--", *there)

    def locked(self, path: str, timeout: Optional[float] = None, create: bool = True) -> ContextManager[None]:
        """Hold the lock on a file of our own, after waiting for it at most `timeout` seconds (forever if None).

        Without `create`, a lock that does not exist is not needed. Raises TimeoutError, and IsolationError if it cannot
        be made.
        """
        return locked(self.path(path), path, timeout, create)

    def sync(self) -> None:
        """Write all dirty pages to disk, see sync(2)."""
        os.sync()

    def kernel_release(self) -> str:
        """The kernel's release, such as `6.1.0-40-amd64`, see uname(2)."""
        return self.read("/proc/sys/kernel/osrelease") or ""

    def boot_id(self) -> str:
        """An id that no other boot of any host has."""
        return self.read("/proc/sys/kernel/random/boot_id") or ""

    def page_size(self) -> int:
        """The size of a page of memory, in bytes."""
        return int(os.sysconf("SC_PAGE_SIZE"))

    def converse(self, path: str, message: str, answers: bool = True) -> str:
        """Send a message to a daemon's socket, with our credentials, and return its answer.

        If there is no such file, the abstract socket of that name is used. Raises Refused.
        """
        from .daemon import converse  # few hosts have such a daemon

        try:
            return converse(self.path(path) if self.exists(path) else "\0" + os.path.basename(path), message, answers)
        except OSError as error:
            raise Refused.of(error, path, message) from error

    def change(self, *argv: str) -> None:
        """Run a command that changes something. Raises Refused with what it printed."""
        try:
            code, _out, err = self._run(argv)
        except OSError as error:
            raise Refused.of(error, " ".join(argv[:-1]), argv[-1]) from error
        if code != 0:
            raise Refused(" ".join(argv[:-1]), argv[-1], err.strip() or f"exit code {code}", code)
        self.note_write(" ".join(argv))

    def ask(self, *argv: str) -> Optional[str]:
        """What a command that changes nothing prints; None if it fails or does not exist."""
        try:
            code, out, _err = self._run(argv)
        except OSError:
            return None
        return out if code == 0 else None

    def wait_for_end(self, process: int) -> None:
        """Wait until a process has ended, without asking again and again. See pidfd_open(2)."""
        from .process import wait_for_end  # only what watches virtual machines needs it

        wait_for_end(process)

    def check_may_bind(self) -> None:
        """Raise IsolationError without CAP_SYS_NICE, which root lacks in most containers, see capabilities(7)."""
        match = re.search(r"^CapEff:\s*([0-9a-f]+)$", self.read("/proc/self/status") or "", re.MULTILINE)
        if match and not int(match.group(1), 16) & 1 << CAP_SYS_NICE:
            raise NeedsCapability() if os.geteuid() == 0 else NeedsRoot()

    def affinity(self, thread: int) -> Optional[CpuSet]:
        """The CPUs that a thread may run on; None if it has ended. See sched_getaffinity(2)."""
        try:
            return frozenset(os.sched_getaffinity(thread))
        except OSError:
            return None

    def set_affinity(self, thread: int, cpus: CpuSet) -> None:
        """Bind a thread to CPUs, see sched_setaffinity(2). Raises Skipped if it has ended or may not move."""
        try:
            os.sched_setaffinity(thread, cpus)
        except ProcessLookupError:
            raise Skipped("the thread has ended") from None
        except OSError as error:
            raise Skipped(f"the kernel keeps this thread's affinity ({os.strerror(error.errno or 0)})") from error
        self.note_write(f"affinity of thread {thread}")
