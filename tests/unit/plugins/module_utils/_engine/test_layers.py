# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layers of the engine: imports go down only, one layer touches the host, one knows what kinds are called."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Iterator, List, Set, Tuple

import pytest
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted

MODULE_UTILS = Path(__file__).resolve().parents[5] / "plugins" / "module_utils"
ENGINE = "_engine"
# From the bottom up, as docs/architecture.md draws them: files and folders of _engine/.
LAYERS = (
    "errors",
    "paths",
    "text",
    "model",
    "arguments",
    "kernel",
    "strategy",
    "resources",
    "journal",
    "planning",
    "steps",
    "transaction",
    "hooks",
    "entries",
)
WITH_ANSIBLE = "_module"
# The only ones that touch a host: the kernel layer does, paths only says what is where.
KERNEL, PATHS = "kernel", "paths"
# What only the kernel layer calls; `os` has more, such as getpid, that ask nothing of a host.
HOST_MODULES = {"fcntl", "socket", "subprocess", "shutil", "tempfile", "glob", "pathlib", "ctypes", "mmap", "select"}
HOST_CALLS = {
    *("uname sync listdir scandir open read write stat lstat chmod mkdir makedirs rmdir unlink remove replace".split()),
    *("system popen spawnv posix_spawn posix_spawnp execv fork kill umask sysconf cpu_count readlink symlink".split()),
    *("sched_getaffinity sched_setaffinity path.exists path.lexists path.isfile path.isdir path.islink".split()),
}
HOST_PATHS = ("/proc/", "/sys/", "/run/")
# The only ones that look into an address: values and the table of kinds. Above, kinds are asked by what they declare.
KNOWS_KINDS = {KERNEL, "model", "resources"}
FILES = ("cgroup.procs",)


def engine_files() -> List[Tuple[str, str]]:
    """The engine's files: path below module_utils, with dots, and source."""
    files = sorted((MODULE_UTILS / ENGINE).rglob("*.py"))
    assert len(files) > 50
    return [(_dotted(file), file.read_text(encoding="utf-8")) for file in files if file.name != "__init__.py"]


def _dotted(file: Path) -> str:
    return ".".join(file.relative_to(MODULE_UTILS).with_suffix("").parts)


def imports(module: str, source: str) -> Iterator[Tuple[str, int]]:
    """What a module imports, wherever in it: modules of ours below module_utils, with dots, others by their names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level])
            if node.module:
                yield f"{base}.{node.module}".strip("."), node.lineno
            else:
                for name in node.names:
                    yield f"{base}.{name.name}".strip("."), node.lineno


def layer_of(module: str) -> int:
    """How high a module of the engine stands; the doors above it stand higher than all."""
    folder, _dot, name = module.partition(".")
    return LAYERS.index(name.split(".")[0]) if folder == ENGINE else len(LAYERS)


def imports_that_go_up(module: str, source: str) -> List[str]:
    """Those of a module of the engine that do not lead to a lower layer, or stay in its own folder."""
    wrong = []
    for name, line in imports(module, source):
        ours = name.startswith(("_", "ansible_collections."))
        same = name.startswith(ENGINE + ".") and name.split(".")[1] == module.split(".")[1]
        if ours and not name.startswith("__") and not same and layer_of(name) >= layer_of(module):
            wrong.append(f"{module}:{line} imports {name}, which is not below it")
    return wrong


def imports_of_ansible(module: str, source: str) -> List[str]:
    """Imports that a host without Ansible does not have."""
    return [f"{module}:{line} imports {name}" for name, line in imports(module, source) if name.startswith("ansible")]


def _texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """The texts of a module that are not docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def _dotted_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def touches_of_the_host(module: str, source: str) -> List[str]:
    """What a module uses of a host without asking the kernel layer."""
    tree = ast.parse(source)
    wrong = [
        f"{module}:{line} imports {name}"
        for name, line in imports(module, source)
        if name.split(".")[0] in HOST_MODULES
    ]
    for node in ast.walk(tree):
        name = _dotted_name(node) if isinstance(node, (ast.Attribute, ast.Name)) else ""
        if name.startswith("os.") and name[len("os.") :] in HOST_CALLS:
            wrong.append(f"{module}:{node.lineno} uses {name}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            wrong.append(f"{module}:{node.lineno} opens a file")
    wrong += [
        f"{module}:{text.lineno} names {text.value}" for text in _texts(tree) if text.value.startswith(HOST_PATHS)
    ]
    return wrong


def looks_into_addresses(module: str, source: str) -> List[str]:
    """Where a module tells settings apart by how their addresses begin."""
    tree = ast.parse(source)
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            compared = [node.left, *node.comparators]
            if any(isinstance(one, ast.Attribute) and one.attr == "kind" for one in compared):
                wrong.append(f"{module}:{node.lineno} compares the kind of an address")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            whose = _dotted_name(node.func.value).rpartition(".")[2]
            if node.func.attr in ("startswith", "partition", "split", "endswith") and whose in ("address", "a", "kind"):
                wrong.append(f"{module}:{node.lineno} takes an address apart")
    wrong += [
        f"{module}:{text.lineno} spells the kind {text.value!r}"
        for text in _texts(tree)
        if text.value.startswith(kind_prefixes()) and text.value not in FILES
    ]
    return wrong


@functools.lru_cache(maxsize=None)
def kind_prefixes() -> Tuple[str, ...]:
    """How addresses begin: `cgroup.`, `irq.` and so on."""
    with booted() as kernel:
        return tuple({kind.split(".")[0] + "." for kind in engine(kernel).resources.kinds})


def folder_of(module: str) -> str:
    """The layer of a module of the engine, by its name."""
    return module.split(".")[1]


def test_imports_go_down_only() -> None:
    assert [wrong for module, source in engine_files() for wrong in imports_that_go_up(module, source)] == []


def test_the_folders_are_the_layers() -> None:
    assert {folder_of(module) for module, _source in engine_files()} == set(LAYERS)


def test_modules_of_a_folder_import_each_other_in_no_circle() -> None:
    files = dict(engine_files())
    graph = {module: {name for name, _line in imports(module, files[module]) if name in files} for module in files}
    done: Set[str] = set()
    while len(done) < len(graph):
        free = {module for module in graph if module not in done and graph[module] <= done}
        assert free, {module: graph[module] - done for module in graph if module not in done}
        done |= free


def test_nothing_below_the_modules_door_imports_ansible() -> None:
    others = [(file.stem, file.read_text(encoding="utf-8")) for file in sorted(MODULE_UTILS.glob("*.py"))]
    below = [(module, source) for module, source in [*engine_files(), *others] if module != WITH_ANSIBLE]
    assert [wrong for module, source in below for wrong in imports_of_ansible(module, source)] == []


def test_only_the_kernel_layer_touches_the_host() -> None:
    others = [(module, source) for module, source in engine_files() if folder_of(module) not in (KERNEL, PATHS)]
    others += [(file.stem, file.read_text(encoding="utf-8")) for file in sorted(MODULE_UTILS.glob("*.py"))]
    assert [wrong for module, source in others for wrong in touches_of_the_host(module, source)] == []


def test_only_the_kinds_know_what_they_are_called() -> None:
    others = [(module, source) for module, source in engine_files() if folder_of(module) not in KNOWS_KINDS]
    others += [(file.stem, file.read_text(encoding="utf-8")) for file in sorted(MODULE_UTILS.glob("*.py"))]
    assert [wrong for module, source in others for wrong in looks_into_addresses(module, source)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_engine.text.cpus", "from ..kernel.host import Host"),
        ("_engine.model", "from .resources import Resources"),
        ("_engine.planning.view", "def f():\n    from ..steps import cpuset"),
        ("_engine.kernel.irq", "from .. import journal"),
        ("_engine.hooks.claim", "from ..entries.runner import answer"),
        ("_engine.transaction.engine", "from ..._facts import gather"),
        ("_engine.kernel.kind", "import ansible_collections.vfio.isolation.plugins.module_utils._engine.journal"),
    ],
)
def test_an_import_that_goes_up_is_found(module: str, source: str) -> None:
    assert len(imports_that_go_up(module, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from ansible.module_utils.basic import AnsibleModule",
        "def f():\n    import ansible",
        "import ansible.errors as e",
    ],
)
def test_an_import_of_ansible_is_found(source: str) -> None:
    assert len(imports_of_ansible("_engine.text.cpus", source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "release = os.uname().release",
        "os.sync()",
        "import fcntl",
        "import socket",
        "def f():\n    import subprocess",
        "FILE = '/run/vfio-isolation/x'",
        "host.read(f'/proc/{number}/stat')",
        "text = '/sys/devices/system/cpu/online'",
        "with open(path) as stream: pass",
        "os.path.exists(path)",
        "from shutil import rmtree",
    ],
)
def test_a_touch_of_the_host_is_found(source: str) -> None:
    assert len(touches_of_the_host("_engine.steps.cpuset", source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "address.startswith(prefix)",
        "kind, _colon, name = change.address.partition(':')",
        "if address.kind == EXISTS: pass",
        "x = f'cgroup.cpus:{path}'",
        "THREAD = 'task.affinity'",
        "view.get('irq.default:')",
    ],
)
def test_a_look_into_an_address_is_found(source: str) -> None:
    assert len(looks_into_addresses("_engine.steps.cpuset", source)) == 1
