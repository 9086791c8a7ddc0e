# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model of Proxmox VE: of qm, pvesh, qmeventd and /etc/pve, as much as a hookscript and the module proxmox_hook see.

Proxmox VE itself cannot be installed beside Debian's libvirt and QEMU. The model follows qm(1) with its appendix
'Hookscripts', and the sources of Proxmox VE 9: PVE::QemuServer (vm_start_nolock, vm_stop_cleanup), PVE::GuestHelpers
(exec_hookscript, check_hookscript), PVE::QemuConfig (the lock). What it has of them:

- a start holds the lock of the virtual machine from before pre-start until QEMU runs, or does not;
- pre-start alone can refuse; if QEMU does not start after it, nothing is called any more;
- QEMU is in qemu.slice/VMID.scope, under taskset if there is an affinity, with -daemonize and a pid file (without -id,
  which only Proxmox VE's own QEMU knows, and without KVM, holding open what is /dev/kvm here);
- post-stop comes with `qm stop`, or with `qm cleanup`, which qmeventd runs when QEMU's socket closes; not at the source
  of a migration;
- `qm set` takes the lock, refuses a locked configuration and a hookscript that does not exist or cannot be executed.

It is a program for one host, run as `python3 proxmox_model.py qm start 100`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

PVE, RUN, LOCKS = "/etc/pve", "/run/qemu-server", "/run/lock/qemu-server"
PROGRAMS = {"/usr/sbin/qm": "qm", "/usr/bin/pvesh": "pvesh"}
STORAGES = """\
dir: local
\tpath /var/lib/vz
\tcontent backup,iso,snippets,vztmpl

dir: plain
\tpath /mnt/plain
\tcontent images

dir: other
\tpath /mnt/other
\tcontent snippets
\tcontent-dirs snippets=hooks

zfspool: tank
\tpool rpool/data
\tcontent images,rootdir
"""


def config_path(vmid: str) -> str:
    """The configuration file of a virtual machine."""
    return f"{PVE}/qemu-server/{vmid}.conf"


def main_section(vmid: str) -> dict[str, str]:
    """The options of a virtual machine, without those that are pending and those of snapshots."""
    with open(config_path(vmid)) as stream:
        text = re.split(r"^\[", stream.read(), maxsplit=1, flags=re.M)[0]
    return dict(re.findall(r"^([a-z][a-z_-]*\d*):\s*(.+?)\s*$", text, re.M))


def storage(name: str) -> dict[str, str]:
    """A storage's configuration."""
    with open(f"{PVE}/storage.cfg") as stream:
        for block in stream.read().split("\n\n"):
            kind, _colon, found = block.splitlines()[0].partition(": ")
            if found == name:
                options = dict(line.strip().split(" ", 1) for line in block.splitlines()[1:])
                return {"storage": name, "type": kind, **options}
    raise SystemExit(f"storage '{name}' does not exist")


def pvesh(verb: str, path: str, *_options: str) -> None:
    """`pvesh get /storage/NAME --output-format json`."""
    assert verb == "get", verb
    found: dict[str, object] = dict(storage(path.rpartition("/")[2]))
    if "content-dirs" in found:
        found["content-dirs"] = dict(part.split("=") for part in str(found["content-dirs"]).split(","))
    print(json.dumps(found))


def path_of(volume: str) -> str:
    """Where a snippet is."""
    name, _colon, rest = volume.partition(":")
    kind, _slash, file = rest.partition("/")
    if kind != "snippets" or "/" in file:
        raise SystemExit(f"400 Parameter verification failed.\nhookscript: '{volume}' is not in the snippets directory")
    found = storage(name)
    directory = dict(p.split("=") for p in found.get("content-dirs", "").split(",") if p).get("snippets", "snippets")
    return f"{found['path']}/{directory}/{file}"


@contextlib.contextmanager
def locked(vmid: str, seconds: float = 10) -> Iterator[None]:
    """Hold the lock of a virtual machine."""
    os.makedirs(LOCKS, exist_ok=True)
    with open(f"{LOCKS}/lock-{vmid}.conf", "a") as lock:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SystemExit(f"can't lock file '{LOCKS}/lock-{vmid}.conf' - got timeout") from None
                time.sleep(0.1)
        yield


def hook(vmid: str, phase: str, *, may_refuse: bool = False) -> None:
    """Call the hookscript."""
    volume = main_section(vmid).get("hookscript")
    if not volume:
        return
    script = path_of(volume)
    if not os.access(script, os.X_OK):
        message = f"hookscript error for {vmid} on {phase}: script '{volume}' does not exist"
        if may_refuse:
            raise SystemExit(f"start failed: {message}")
        print(message, file=sys.stderr)
        return
    done = subprocess.run(
        [script, vmid, phase],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": "/sbin:/bin:/usr/sbin:/usr/bin", "LC_ALL": "C"},
        check=False,
    )
    print(done.stdout, end="")
    if done.returncode:
        message = f"hookscript error for {vmid} on {phase}: command '{script} {vmid} {phase}' failed:"
        message += f" exit code {done.returncode}"
        if may_refuse:
            raise SystemExit(f"start failed: {message}")
        print(message, file=sys.stderr)


def process(vmid: str) -> int:
    """The QEMU of a virtual machine; 0 if it does not run."""
    try:
        with open(f"{RUN}/{vmid}.pid") as stream:
            found = int(stream.read())
        with open(f"/proc/{found}/cmdline") as stream:
            return found if f"/var/run/qemu-server/{vmid}.pid" in stream.read().split("\0") else 0
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return 0


def start(vmid: str) -> None:
    """`qm start`."""
    with locked(vmid):
        options = main_section(vmid)
        if options.get("template"):
            raise SystemExit("you can't start a vm if it's a template")
        if process(vmid):
            raise SystemExit(f"VM {vmid} already running")
        hook(vmid, "pre-start", may_refuse=True)
        os.makedirs(RUN, exist_ok=True)
        command = ["systemd-run", "--quiet", "--scope", "--collect", "--slice=qemu.slice", f"--unit={vmid}"]
        command += ["--property=KillMode=process", "--"]
        if "affinity" in options:
            command += ["taskset", "--cpu-list", "--all-tasks", options["affinity"]]
        command += ["/usr/bin/kvm", "-name", f"{options.get('name', f'vm{vmid}')},debug-threads=on"]
        command += ["-pidfile", f"/var/run/qemu-server/{vmid}.pid", "-daemonize", "-accel", "tcg", "-display", "none"]
        command += [
            "-nodefaults",
            "-m",
            "32",
            "-smp",
            options.get("cores", "1"),
            "-S",
            *options.get("args", "").split(),
        ]
        with open("/dev/kvm") as kvm:
            done = subprocess.run(command, check=False, pass_fds=[kvm.fileno()])
        if done.returncode:
            raise SystemExit("start failed: QEMU exited with code 1")
        open(f"{RUN}/{vmid}.cleanup", "w").close()
        subprocess.Popen(
            [sys.executable, __file__, "qmeventd", vmid, str(process(vmid))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        hook(vmid, "post-start")


def stop(vmid: str) -> None:
    """`qm stop`."""
    with locked(vmid):
        if process(vmid):
            hook(vmid, "pre-stop")
            _kill(vmid)
        _stopped(vmid)


def _kill(vmid: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process(vmid) or 1 << 22, signal.SIGTERM)
    while process(vmid):
        time.sleep(0.05)


def _stopped(vmid: str) -> None:
    if os.path.exists(f"{RUN}/{vmid}.cleanup"):
        hook(vmid, "post-stop")
        os.unlink(f"{RUN}/{vmid}.cleanup")


def qmeventd(vmid: str, qemu: str) -> None:
    """The daemon, for one QEMU: it runs `qm cleanup` when that has ended."""
    while os.path.exists(f"/proc/{qemu}"):
        time.sleep(0.1)
    if not os.path.exists(f"{RUN}/qmeventd-is-dead"):
        qm("cleanup", vmid)


def cleanup(vmid: str) -> None:
    """`qm cleanup`."""
    with locked(vmid, 60):
        if not process(vmid):
            _stopped(vmid)


def migrate(vmid: str) -> None:
    """The source's end of `qm migrate --online`: the hookscript is not called."""
    with locked(vmid):
        os.unlink(f"{RUN}/{vmid}.cleanup")
        _kill(vmid)
        os.makedirs(f"{PVE}/nodes/elsewhere/qemu-server", exist_ok=True)
        os.rename(config_path(vmid), f"{PVE}/nodes/elsewhere/qemu-server/{vmid}.conf")


def change(vmid: str, option: str, value: str) -> None:
    """`qm set`."""
    if not os.path.exists(config_path(vmid)):
        raise SystemExit(f"Configuration file 'nodes/here/qemu-server/{vmid}.conf' does not exist")
    with locked(vmid):
        options = main_section(vmid)
        if "lock" in options:
            raise SystemExit(f"VM is locked ({options['lock']})")
        name = value if option == "--delete" else option.lstrip("-")
        if name == "hookscript" and option != "--delete":
            script = path_of(value)
            for reason, holds in (("does not exist", os.path.isfile), ("is not executable", _is_executable)):
                if not holds(script):
                    raise SystemExit(f"400 Parameter verification failed.\nhookscript: script '{value}' {reason}")
        with open(config_path(vmid)) as stream:
            main, *sections = re.split(r"^(?=\[)", stream.read(), maxsplit=1, flags=re.M)
        main = "".join(line for line in main.splitlines(True) if not line.startswith(f"{name}:")).rstrip("\n") + "\n"
        main += "" if option == "--delete" else f"{name}: {value}\n"
        with open(f"{config_path(vmid)}.tmp", "w") as stream:
            stream.write("\n".join([main, *sections]) if sections else main)
        os.rename(f"{config_path(vmid)}.tmp", config_path(vmid))
    print(f"update VM {vmid}: {option} {value}")


def _is_executable(path: str) -> bool:
    return os.access(path, os.X_OK)


def clone(vmid: str, new: str) -> None:
    """`qm clone`: all options of the virtual machine, except that it is a template."""
    options = {name: value for name, value in main_section(vmid).items() if name not in ("template", "lock")}
    with open(config_path(new), "w") as stream:
        stream.writelines(f"{name}: {value}\n" for name, value in options.items())


VERBS = {"start": start, "stop": stop, "cleanup": cleanup, "set": change, "clone": clone, "migrate": migrate}


def qm(verb: str, *arguments: str) -> None:
    """`qm VERB ...`."""
    VERBS[verb](*arguments)


if __name__ == "__main__":
    {"qm": qm, "pvesh": pvesh, "qmeventd": qmeventd}[sys.argv[1]](*sys.argv[2:])
