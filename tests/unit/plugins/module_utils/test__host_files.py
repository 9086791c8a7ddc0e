# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host runner as it is installed: it runs, says its sentence, and imports only what it uses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Tuple

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.host import Host
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import RUNNER
from ansible_collections.vfio.isolation.plugins.module_utils._host_files import SNIPPET_TEXT, hook_files
from ansible_collections.vfio.isolation.plugins.module_utils._install import Installation

PYTHON = "/usr/bin/python3"


def installed(root: Path) -> str:
    """The runner, installed below a directory; what starts it."""
    Installation(Host(str(root), run=lambda _argv: (0, "inactive", "")), check=False).hook(hook_files({}, None, PYTHON))
    return str(root) + RUNNER


def test_the_installed_runner_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", installed(tmp_path), "runner"]
    done = subprocess.run(command, input='{"do": "fly"}', stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"error": "do: 'fly' is not one of apply, revert, audit"}


def test_the_installed_runner_s_sentence_arrives(tmp_path: Path) -> None:
    """Through a pipe, as libvirt and systemd read it."""
    command = [sys.executable, "-I", "-S", installed(tmp_path), "persistent_claim", "start", "/no/such/file"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "there is no file /no/such/file\n")


def test_every_module_of_the_installed_engine_can_be_imported(tmp_path: Path) -> None:
    (runner,) = map(str, Path(installed(tmp_path)).glob("engine-*"))
    names = [
        str(path.relative_to(runner).with_suffix("")).replace("/", ".")
        for path in Path(runner).rglob("*.py")
        if path.name not in ("__main__.py", "__init__.py")
    ]
    assert "engine.hooks.events" in names and "engine.kernel.cgroup_v1" in names and "engine._module" not in names
    imports = f"import sys; sys.path.insert(0, {runner!r}); import {', '.join(names)}"
    subprocess.run([sys.executable, "-I", "-S", "-c", imports], check=True)


def test_a_domain_that_is_left_alone_costs_next_to_no_import(tmp_path: Path) -> None:
    """Each VM of the host waits for it."""
    arguments = [
        "-X",
        "importtime",
        "-I",
        "-S",
        installed(tmp_path),
        "libvirt_hook",
        "a vm of nobody",
        "prepare",
        "begin",
    ]
    done = subprocess.run([sys.executable, *arguments, "-"], stderr=subprocess.PIPE, text=True, check=True)
    imported = re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE)
    assert "engine.errors" in imported  # by the hook
    assert not {"typing", "re", "json", "signal", "subprocess", "engine.transaction.engine"} & set(imported)


def test_a_domain_s_claim_imports_only_what_it_uses(tmp_path: Path) -> None:
    (runner,) = map(str, Path(installed(tmp_path)).glob("engine-*"))
    imports = f"import sys; sys.path.insert(0, {runner!r}); import engine.entries.libvirt_hook, engine.hooks.events"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{imports}; print(*sorted(sys.modules))"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    unneeded = {
        "subprocess",
        "socket",
        "threading",
        "dataclasses",
        "logging",
        "argparse",
        "pathlib",
        "tempfile",
        "ansible",
    }
    assert not unneeded & set(done.stdout.split())


def called(root: Path, *arguments: str, python: str = "/bin/echo") -> Tuple[int, str]:
    """The hookscript of Proxmox VE on a host whose runner is below a directory: its exit code, and what it prints."""
    script = root / "vfio-isolation"
    script.write_text(SNIPPET_TEXT.format(python=python, runner=root / "runner", entry="proxmox_hook"), "utf-8")
    command = ["sh", str(script), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def with_runner(root: Path) -> Path:
    """The same directory, with as much of a runner as the hookscript looks for."""
    (root / "runner").mkdir()
    (root / "runner/__main__.py").touch()
    return root


@pytest.mark.parametrize(
    ("phase", "runs"),
    [
        ("pre-start", True),
        ("post-stop", True),
        ("post-start", False),
        ("pre-stop", False),
        ("pre-migrate", False),
        ("pre-start-x", False),
        ("", False),
    ],
)
def test_the_hookscript_of_proxmox_runs_python_for_a_start_and_an_end_only(
    tmp_path: Path, phase: str, runs: bool
) -> None:
    root = with_runner(tmp_path)
    expected = f"-I -S {root}/runner proxmox_hook 100 {phase}\n"
    assert called(root, "100", phase) == (0, expected if runs else "")
    assert called(root) == called(root, phase) == (0, "")


@pytest.mark.parametrize("phase", ["pre-start", "post-stop"])
def test_the_hookscript_of_proxmox_does_nothing_on_a_host_that_has_only_its_storage(tmp_path: Path, phase: str) -> None:
    """A VM would not start there otherwise."""
    assert called(tmp_path, "100", phase, python="/bin/false") == (0, "")
    (tmp_path / "runner").mkdir()
    assert called(tmp_path, "100", phase, python="/bin/false") == (0, "")
    (tmp_path / "runner").rmdir()
    assert called(with_runner(tmp_path), "100", phase, python="/bin/false") == (1, "")


def test_a_vm_of_proxmox_that_is_left_alone_costs_next_to_no_import(tmp_path: Path) -> None:
    """Each VM of the host that has the hookscript waits for it."""
    command = [sys.executable, "-X", "importtime", "-I", "-S", installed(tmp_path), "proxmox_hook"]
    for phase in ("pre-start", "post-stop"):
        done = subprocess.run([*command, "4711", phase], stderr=subprocess.PIPE, text=True, check=True)
        imported = re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE)
        assert "engine.errors" in imported
        assert not {"typing", "re", "json", "signal", "subprocess", "engine.transaction.engine"} & set(imported)
