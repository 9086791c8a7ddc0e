# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables of the collection list the same: a new module, step or kind is missing from none of them."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Mapping, Set, Tuple

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine import strategy
from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries.libvirt_hook import ACTING
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.role_steps import VARIABLES
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.kind import Kind
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Address
from ansible_collections.vfio.isolation.plugins.module_utils._engine.resources import Resources
from ansible_collections.vfio.isolation.plugins.module_utils._engine.steps.catalog import NAMES, STEPS
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.expression import KNOWN
from ansible_collections.vfio.isolation.plugins.module_utils._host_files import ENTRIES, HOOK_TEXT
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import FakeKernel
from ansible_collections.vfio.isolation.tests.unit.plugins.tables import (
    FILTERS,
    MODULES,
    PREFIX,
    ROOT,
    constants,
    expect_alike,
    expect_same,
    loaded,
    marked,
    names,
    quoted,
    rows,
    section,
    spec,
    text,
)

ENGINE = "plugins/module_utils/_engine"
CATALOG = f"{ENGINE}/steps/catalog.py"
README = "README.md"
# What the section Modules of README.md names besides modules and filters.
NO_MODULES = {"claim", "prior"}
# README.md's table of variables, and what it says of a default that has no text of its own.
UNWRITTEN_DEFAULTS = ("", "none", "those of its CPUs")
# Options of type raw that take NUMA nodes, not CPUs.
NODES = {"mems", "host_mems"}
STEP_RESULTS = ("changes", "prior", "left_alone")
# Entries of the facts that are called like return values of other modules, and have to differ.
OTHER_FACTS = {
    "strategy": "without a claim, it is the one that auto would choose",
    "strategy_reason": "it may be why there is no strategy",
    "vm_cpus": "the facts always have it, so it can be empty",
    "claims": "they are the claims that there are, with their steps, not the names of those that were reverted",
}
# What libvirt may call a hook for QEMU with. Source: libvirt, Hooks for specific system management.
EVENTS = {
    ("prepare", "begin"),
    ("start", "begin"),
    ("started", "begin"),
    ("stopped", "end"),
    ("release", "end"),
    ("migrate", "begin"),
    ("restore", "begin"),
    ("reconnect", "begin"),
    ("attach", "begin"),
}
MODULE_PARAMETERS = pytest.mark.parametrize("module", MODULES)
STEP_PARAMETERS = pytest.mark.parametrize("step", NAMES)


# Modules and steps


def described(module: str, option: str, words: str) -> str:
    """The paragraph of an option's description that has these words; empty if none has."""
    return next((line for line in MODULES[module].options[option]["description"] if words in line), "")


def imported_for_ansible() -> Set[str]:
    """The steps that catalog.py imports, so that Ansible brings them to a host."""
    block = next(node for node in ast.parse(text(CATALOG)).body if isinstance(node, ast.If))
    return {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_every_step_is_in_all_tables_of_steps() -> None:
    expect_same(
        {
            f"{ENGINE}/steps/": names(f"{ENGINE}/steps/*.py") - {"catalog"},
            f"NAMES in {CATALOG}": NAMES,
            f"the TYPE_CHECKING block of {CATALOG}": imported_for_ansible(),
            "plugins/modules/, what calls run_step": {
                name for name in MODULES if f'run_step("{name}")' in text(f"plugins/modules/{name}.py")
            },
            "the documentation of the option steps of transaction": marked(
                "M", described("transaction", "steps", "The modules are")
            ),
        }
    )


@STEP_PARAMETERS
def test_a_step_s_module_documents_its_arguments(step: str) -> None:
    added = {name: MODULES[step].options.get(name, {}) for name in ("claim", "lock_timeout")}
    expect_alike(
        f"options of {step}",
        {
            "ARGUMENTS of the step, with claim and lock_timeout": {
                name: spec(option) for name, option in {**STEPS[step].ARGUMENTS, **added}.items()
            },
            "the module's documentation": {name: spec(option) for name, option in MODULES[step].options.items()},
        },
    )


def test_every_step_that_acts_is_in_all_tables_of_actions() -> None:
    transaction = MODULES["transaction"]
    expect_same(
        {
            f"{ENGINE}/steps/, those with acts": {name for name in NAMES if STEPS[name].acts},
            "the modules that return more than a step": {
                name for name in NAMES if set(MODULES[name].returned) - {*STEP_RESULTS, *transaction.returned}
            },
            "the documentation of the option steps of transaction": marked(
                "C", described("transaction", "steps", " act only ")
            ),
            "the documentation of the return value actions of transaction": marked(
                "M", transaction.returned["actions"]["description"]
            ),
        }
    )


def sentences_of_modules() -> Tuple[Set[str], Set[str]]:
    """The modules and the filters that README.md names in its section Modules."""
    prose = section(README, "Modules").partition("```")[0]
    named: Dict[bool, Set[str]] = {True: set(), False: set()}
    for sentence in re.split(r"(?<=\.)\s+", prose):
        words = {word for word in quoted(sentence) if re.match(r"[a-z_]+\Z", word)}
        named[sentence.startswith("The filter")] |= words - NO_MODULES
    return named[False], named[True]


def test_every_module_is_in_all_tables_of_modules() -> None:
    expect_same(
        {
            "plugins/modules/": MODULES,
            "the documentation's key module": {module.documentation["module"] for module in MODULES.values()},
            "action_groups in meta/runtime.yml": loaded("meta/runtime.yml")["action_groups"]["isolation"],
            "README.md, section Modules": sentences_of_modules()[0],
        }
    )


def test_every_filter_is_in_all_tables_of_filters() -> None:
    expect_same(
        {
            "plugins/filter/": FILTERS,
            "the documentation's key name": {one.documentation["name"] for one in FILTERS.values()},
            "README.md, section Modules": sentences_of_modules()[1],
        }
    )


# Roles and playbooks


def test_every_role_is_in_all_tables_of_roles() -> None:
    used = {
        role[len(PREFIX) :]
        for playbook in names("playbooks/*.yml")
        for play in loaded(f"playbooks/{playbook}.yml")
        for role in play.get("roles", [])
    }
    shown = re.findall(rf"- role: {re.escape(PREFIX)}(\w+)", text(README))
    expect_same(
        {"roles/": names("roles/*"), "the roles that playbooks/*.yml have": used, "README.md's examples": shown}
    )


def test_every_playbook_is_in_readme_s_table_of_playbooks() -> None:
    listed = [word for name, _what in rows(text(README), "playbook") for word in quoted(name)]
    expect_same({"playbooks/": {PREFIX + name for name in names("playbooks/*.yml")}, "README.md's table": listed})


def options_of_role(role: str) -> Dict[str, Any]:
    """The variables of a role, as its argument specs document them."""
    options: Dict[str, Any] = loaded(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    return options


@pytest.mark.parametrize("role", sorted(names("roles/*")))
def test_a_role_s_variables_have_the_defaults_that_are_documented(role: str) -> None:
    documented = {name: option["default"] for name, option in options_of_role(role).items() if "default" in option}
    expect_alike(
        f"role {role}",
        {"meta/argument_specs.yml": documented, "defaults/main.yml": loaded(f"roles/{role}/defaults/main.yml")},
    )


@pytest.mark.parametrize("role", sorted(names("roles/*")))
def test_a_role_s_tasks_use_all_its_variables(role: str) -> None:
    used = re.findall(rf"\b{role}_\w+", re.sub(r"register: \w+", "", text(f"roles/{role}/tasks/main.yml")))
    expect_same({f"roles/{role}/meta/argument_specs.yml": options_of_role(role), f"roles/{role}/tasks/main.yml": used})


def test_every_variable_of_the_role_isolate_is_in_readme_s_table_with_its_default() -> None:
    shown = {}
    for variables, default, _meaning in rows(text(README), "variable of the role"):
        shown.update(dict.fromkeys(quoted(variables), default))
    documented = options_of_role("isolate")
    expect_same({"README.md's table of variables": shown, "roles/isolate/meta/argument_specs.yml": documented})
    for name, cell in shown.items():
        default = documented[name].get("default")
        written = str(default).lower() if isinstance(default, bool) else default
        assert cell == f"`{written}`" or (not written and cell in UNWRITTEN_DEFAULTS), (
            f"README.md's table of variables says that the default of {name} is {cell or 'nothing'}; it is {default!r}"
        )


def test_a_domain_has_the_variables_of_the_role_except_those_that_are_documented() -> None:
    excepted = marked("C", described("libvirt_hook", "domains", " except ").partition(" except ")[2].partition(". ")[0])
    expect_same(
        {
            f"VARIABLES in {ENGINE}/libvirt/role_steps.py, with what libvirt_hook documents as excepted": {
                *VARIABLES,
                *excepted,
            },
            "roles/isolate/meta/argument_specs.yml": options_of_role("isolate"),
        }
    )
    assert not excepted & set(VARIABLES), f"libvirt_hook says that a domain cannot have {excepted & set(VARIABLES)}"


def test_the_role_libvirt_hook_has_the_options_of_its_module() -> None:
    variables = options_of_role("libvirt_hook").items()
    options = MODULES["libvirt_hook"].own_options.items()
    expect_alike(
        "options of libvirt_hook",
        {
            "the role's argument specs": {name[len("libvirt_hook_") :]: spec(option) for name, option in variables},
            "the module's documentation": {name: spec(option) for name, option in options},
        },
    )


def test_every_strategy_is_in_all_tables_of_strategies() -> None:
    named = {value for name, value in vars(strategy).items() if name.isupper() and isinstance(value, str)}
    option = MODULES["reserve_cpus"].options["strategy"]
    assert "auto" in option["choices"]
    expect_same(
        {
            f"{ENGINE}/strategy.py": named,
            "ARGUMENTS of reserve_cpus": set(STEPS["reserve_cpus"].ARGUMENTS["strategy"]["choices"]) - {"auto"},
            "the documentation of reserve_cpus": set(option["choices"]) - {"auto"},
            "its return value strategy": marked("V", MODULES["reserve_cpus"].returned["strategy"]["description"]),
            "the role's argument specs": set(options_of_role("isolate")["isolate_strategy"]["choices"]) - {"auto"},
            "README.md's table of strategies": {quoted(row[0])[0] for row in rows(text(README), "strategy")},
        }
    )


# Kinds of settings


def kinds_of(version: int, directory: Path) -> Dict[str, Kind]:
    """The kinds on a host with that version of cgroups."""
    if version == 2:
        return Resources(FakeKernel(str(directory))).kinds
    mount = "31 22 0:26 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    return Resources(FakeHost(str(directory), {"/proc/self/mountinfo": mount})).kinds


def documented_kinds(version: int) -> Set[str]:
    """The kinds that restore documents for hosts with that version of cgroups."""
    found = set()
    for note in MODULES["restore"].documentation["notes"]:
        listed = re.match(r"(C\([a-z]+\.\w+\)(?:, )?)+: ", note)
        only = re.search(r"Only on cgroup v([12])\.", note)
        if listed and (only is None or int(only[1]) == version):
            found |= marked("C", listed[0])
    return found


@pytest.mark.parametrize("version", [1, 2])
def test_the_kinds_are_those_that_restore_documents(version: int, tmp_path: Path) -> None:
    expect_same(
        {
            f"the notes of restore (cgroup v{version})": documented_kinds(version),
            f"{ENGINE}/resources.py, with {ENGINE}/kernel/ (cgroup v{version})": kinds_of(version, tmp_path),
        }
    )


def attributes(kind: Kind) -> Iterator[Tuple[str, Any]]:
    """What a kind says of itself, other than by methods."""
    for said in (*(vars(cls) for cls in type(kind).__mro__ if cls is not object), vars(kind)):
        for name, value in said.items():
            if not name.startswith("_") and not callable(value) and not isinstance(value, (staticmethod, property)):
                yield name, value


@pytest.mark.parametrize("version", [1, 2])
def test_every_kind_says_what_the_engine_must_know(version: int, tmp_path: Path) -> None:
    traits = {
        name: type(value) for name, value in vars(Kind).items() if isinstance(value, (bool, str)) and name[0] != "_"
    }
    for name, kind in kinds_of(version, tmp_path).items():
        assert kind.family, f"{type(kind).__name__} ({name}) declares no family"
        for trait, value in attributes(kind):
            assert trait in traits, f"{type(kind).__name__} ({name}) declares {trait}, which Kind does not have"
            assert isinstance(value, traits[trait]), (
                f"{type(kind).__name__} ({name}) declares {trait} as {value!r}, which is not a {traits[trait].__name__}"
            )


@pytest.mark.parametrize("version", [1, 2])
def test_the_docstring_of_every_kind_begins_with_its_addresses(version: int, tmp_path: Path) -> None:
    kinds = kinds_of(version, tmp_path)
    for name, kind in kinds.items():
        own = {other for other, its in kinds.items() if type(its) is type(kind)}
        begins = re.match(r"(`[a-zA-Z_.]+:[^`]*`(, )?)+", type(kind).__doc__ or "")
        assert begins, (
            f"the docstring of {type(kind).__name__} ({name}) does not begin with an address such as `{name}:...`"
        )
        said = {Address.parse(address).kind for address in quoted(begins[0])}
        assert said <= own, f"the docstring of {type(kind).__name__} begins with {sorted(said - own)}, which it is not"


# What the modules document alike


def without_samples(entry: Mapping[str, Any]) -> Dict[str, Any]:
    """A documented return value without what each module has of its own."""
    return {key: value for key, value in entry.items() if key not in ("sample", "returned")}


def test_return_values_that_modules_share_are_documented_alike() -> None:
    first: Dict[str, Tuple[str, Any]] = {}
    for module, documented in MODULES.items():
        for key, entry in documented.returned.items():
            owner, said = first.setdefault(key, (module, without_samples(entry)))
            if owner != module:
                expect_alike(f"return value {key}", {owner: said, module: without_samples(entry)})
    facts = MODULES["isolation_facts"].returned["ansible_facts"]["contains"]["vfio_isolation"]["contains"]
    for key in set(facts) & set(first):
        owner, said = first[key]
        if key in OTHER_FACTS:
            assert without_samples(facts[key]) != said, f"the fact {key} needs no exemption: {owner} has the same"
        else:
            expect_alike(f"return value {key}", {owner: said, "isolation_facts": without_samples(facts[key])})
    expect_same(
        {"OTHER_FACTS": OTHER_FACTS, "the facts that have to differ": set(OTHER_FACTS) & set(facts) & set(first)}
    )


@STEP_PARAMETERS
def test_every_step_returns_what_a_step_returns(step: str) -> None:
    missing = set(STEP_RESULTS) - set(MODULES[step].returned)
    assert not missing, f"the RETURN block of {step} lacks {', '.join(sorted(missing))}"


@MODULE_PARAMETERS
def test_every_module_has_the_fragments_that_all_have(module: str) -> None:
    needed = ["vfio.isolation._attributes", "vfio.isolation._options"]
    needed += ["vfio.isolation._options.claim"] if module in NAMES else []
    missing = set(needed) - set(MODULES[module].fragments)
    assert not missing, f"extends_documentation_fragment of {module} lacks {', '.join(sorted(missing))}"


def takes_cpus(name: str, option: Mapping[str, Any]) -> bool:
    """Whether an option takes CPUs: by its name, or because it takes anything that is no list of nodes."""
    named = name == "cpus" or name.endswith("_cpus")
    return named or (option.get("type") == "raw" and name not in NODES and name != "_input")


@pytest.mark.parametrize("plugin", [*MODULES, *FILTERS])
def test_every_option_that_takes_cpus_refers_to_the_cpu_language(plugin: str) -> None:
    documented = MODULES.get(plugin) or FILTERS[plugin]
    options = [name for name, option in documented.own_options.items() if takes_cpus(name, option)]
    for name in options:
        description = documented.own_options[name]["description"]
        words = description if isinstance(description, str) else " ".join(description)
        assert "CPU language" in words, f"the description of {name} in {plugin} does not refer to the CPU language"
    if plugin in MODULES:
        has = "vfio.isolation._options.cpus" in documented.fragments
        assert has == bool(options or plugin == "transaction"), (
            f"extends_documentation_fragment of {plugin} must have vfio.isolation._options.cpus just if it takes CPUs"
        )


def terms(listed: Iterable[str]) -> Set[str]:
    """The words of the CPU language in expressions, such as `core` and `online` in `online,^core:8`."""
    words = {term.strip("^ ").partition(":")[0] for expression in listed for term in expression.split(",")}
    return {word for word in words if re.match(r"[a-z][a-z0-9]+\Z", word)}


def test_every_term_of_the_cpu_language_is_in_all_tables_of_terms() -> None:
    fragment = constants("plugins/doc_fragments/_options.py")["CPUS"]
    expect_same(
        {
            f"KNOWN in {ENGINE}/text/expression.py": terms(re.split(r", | or ", KNOWN)),
            "the fragment _options.cpus": terms(marked("V", fragment)),
            "README.md, section CPU expressions": terms(quoted(section(README, "CPU expressions"))),
        }
    )


# Without Ansible


def test_every_entry_of_the_runner_is_brought_to_a_host() -> None:
    expect_same(
        {
            f"{ENGINE}/entries/": names(f"{ENGINE}/entries/*.py"),
            "ENTRIES in plugins/module_utils/_host_files.py": {one.__name__.rpartition(".")[2] for one in ENTRIES},
        }
    )


def imported_by(path: Path) -> Iterator[Path]:
    """The files of the collection that a file imports by a relative import, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            candidates = [place.with_suffix(".py"), *(place / f"{alias.name}.py" for alias in node.names)]
            yield from (candidate for candidate in candidates if candidate.is_file())


def test_ansible_brings_every_file_of_the_engine_to_a_host() -> None:
    """Ansible brings what it finds imported: a file that nothing imports would not be installed."""
    pending, reached = [ROOT / "plugins/module_utils/_host_files.py"], set()
    while pending:
        path = pending.pop()
        if path not in reached:
            reached.add(path)
            pending.extend(imported_by(path))
    files = {path for path in (ROOT / ENGINE).rglob("*.py") if path.name != "__init__.py"}
    expect_same(
        {
            "what plugins/module_utils/_host_files.py imports": {
                str(path.relative_to(ROOT)) for path in reached & files
            },
            f"{ENGINE}/": {str(path.relative_to(ROOT)) for path in files},
        }
    )


def acts_in_script(event: Tuple[str, str], lock: str) -> bool:
    """Whether the hook's script goes on with Python for an event."""
    script = HOOK_TEXT.format(python="echo", runner="on", entry="with", lock=lock)
    command = ["/bin/sh", "-c", script, "qemu", "win11", *event, "-"]
    return bool(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def test_libvirt_s_events_are_documented_as_the_hook_treats_them(tmp_path: Path) -> None:
    acting, idle = set(), set()
    for cell, what in rows(section("docs/architecture.md", "Without Ansible"), "event"):
        for event in quoted(cell):
            if " " in event:
                acting.add(event)
            else:
                idle.add(event)
                assert what.startswith("nothing"), f"docs/architecture.md says that something happens at {event}"
    expect_same(
        {
            "docs/architecture.md's table of events": acting,
            f"ACTING in {ENGINE}/entries/libvirt_hook.py": {" ".join(event) for event in ACTING},
            "HOOK_TEXT in plugins/module_utils/_host_files.py": {
                " ".join(event) for event in EVENTS if acts_in_script(event, lock=str(tmp_path))
            },
        }
    )
    expect_same(
        {"docs/architecture.md's table of events": idle, "libvirt's events": {one for one, _sub in EVENTS - ACTING}}
    )
