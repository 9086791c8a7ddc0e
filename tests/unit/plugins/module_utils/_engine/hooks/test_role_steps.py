# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role's list of steps, said for Ansible and said for the host runner: it is the same, with the same defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.arguments import validated
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.role_steps import VARIABLES, items
from ansible_collections.vfio.isolation.plugins.module_utils._engine.steps.catalog import (
    complete,
    read_items,
    read_steps,
)

yaml = pytest.importorskip("yaml", reason="only a controller has PyYAML")
jinja2 = pytest.importorskip("jinja2", reason="only a controller has Jinja2")

ROLE = Path(__file__).resolve().parents[6] / "roles" / "isolate"
# Which claim it is, and whether it persists, is not said of a domain; its CPUs and its cgroup are in its XML.
OWN = {"isolate_claim", "isolate_persist", "isolate_python"}
OF_THE_DOMAIN = {"isolate_vm_cpus", "isolate_emulator_cpus", "isolate_cgroup"}


def loaded(name: str) -> Any:
    """A file of the role."""
    return yaml.safe_load((ROLE / name).read_text(encoding="utf-8"))


def rendered(value: Any, variables: Dict[str, Any]) -> Any:
    """A value with its templates rendered, as Ansible does."""
    if isinstance(value, dict):
        return {key: rendered(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [rendered(one, variables) for one in value]
    expression = re.match(r"\{\{(.*)\}\}\Z", value) if isinstance(value, str) else None
    return jinja2.Environment().compile_expression(expression[1])(variables) if expression else value


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"isolate_governor": "", "isolate_irqs": False, "isolate_drop_caches": False, "isolate_compact_memory": False},
        {
            "isolate_emulator_cpus": "7",
            "isolate_strategy": "tasks",
            "isolate_partition_type": "root",
            "isolate_cgroup": "vm.slice",
            "isolate_host_cgroup": "rest",
            "isolate_host_mems": "0",
            "isolate_memory_migrate": True,
            "isolate_governor": "schedutil",
        },
    ],
)
def test_the_steps_are_those_of_the_role(given: Dict[str, Any]) -> None:
    variables = {**loaded("defaults/main.yml"), "isolate_vm_cpus": "4-6", **given}
    (task,) = loaded("tasks/main.yml")
    steps = rendered(task["vfio.isolation.transaction"]["steps"], variables)
    by_role = [(name, complete(name, arguments)) for _where, name, arguments in read_items(steps)]
    for name, arguments in by_role:
        if name == "drop_caches":
            assert arguments["sync"]
            arguments["sync"] = False  # the one difference: a VM that starts does not wait for the slowest disk
    assert read_steps(items({name: variables[name] for name in VARIABLES})) == by_role


def test_the_variables_and_their_defaults_are_those_of_the_role() -> None:
    specs = loaded("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert set(VARIABLES) == set(specs) - OWN
    for name in set(VARIABLES) - OF_THE_DOMAIN:
        for key in ("type", "choices", "default"):
            assert VARIABLES[name].get(key) == specs[name].get(key), name
    defaults = loaded("defaults/main.yml")
    assert {name: spec["default"] for name, spec in specs.items() if "default" in spec} == defaults


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"isolate_claim": "x"}, "/x.json has no option isolate_claim; it has isolate_vm_cpus, "),
        ({"isolate_irqs": 1}, "/x.json: isolate_irqs is 1; expected bool"),
        ({"isolate_governor": True}, "/x.json: isolate_governor is True; expected str"),
        ({"isolate_strategy": "fast"}, "isolate_strategy is 'fast'; expected one of auto, partition, slices, tasks"),
    ],
)
def test_a_bad_option_is_one_sentence(given: Dict[str, Any], words: str) -> None:
    with pytest.raises(IsolationError, match=words):
        validated("/x.json", VARIABLES, given)
