# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""From a module's arguments to a step, to the engine, to a result: the only file here that imports Ansible."""

from __future__ import annotations

from traceback import format_exc
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ._zip_importer import cache, compile_once

compile_once()  # before the engine is imported

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ._engine.errors import IsolationError, is_fault, sentence_of
from ._engine.kernel.host import Host
from ._engine.model import Step
from ._engine.paths import CLAIMS, JOURNAL
from ._engine.steps.catalog import STEPS, read_items
from ._engine.transaction.engine import LOCK_TIMEOUT, Engine, Outcome

# For the modules, which must not import the engine before that.
__all__ = (
    "AnsibleModule",
    "Engine",
    "checked",
    "read_steps",
    "run",
    "run_step",
    "stop_persisting",
    "to_result",
    "with_files",
)

COMMON: Dict[str, Any] = {"lock_timeout": {"type": "float", "default": LOCK_TIMEOUT}}
CLAIM: Dict[str, Any] = {"claim": {"type": "str"}}


def run(arguments: Mapping[str, Any], call: Callable[[AnsibleModule, Engine], Dict[str, Any]], **checks: Any) -> None:
    """A module's entry point: parse, call with the engine of this host, and exit with what comes back.

    `checks` are AnsibleModule's, such as `mutually_exclusive`.
    """
    module = AnsibleModule(argument_spec={**arguments, **COMMON}, supports_check_mode=True, **checks)
    try:
        engine = Engine(Host(run=_runner(module)), module.params["lock_timeout"])
        result = call(module, engine)
    except Exception as error:  # what was changed is rolled back by then; a fault of ours is to be reported with it
        traceback = {"exception": format_exc()} if is_fault(error) else {}
        module.fail_json(msg=sentence_of(error), **traceback)
    if result.get("changed") and not module.check_mode and engine.host.exists(JOURNAL):
        cache.save()  # the next run, which mostly changes nothing, compiles nothing
    module.exit_json(**result)


def run_step(name: str) -> None:
    """The entry point of the module of one step."""

    def call(module: AnsibleModule, engine: Engine) -> Dict[str, Any]:
        own = STEPS[name].ARGUMENTS
        step = Step(name, {option: module.params[option] for option in own})
        if module.params["claim"] is None:
            outcome = engine.once(step, module.check_mode)
        else:
            outcome = engine.extend(module.params["claim"], step, module.check_mode)
        # What other claims reserve is not this module's result.
        notes = outcome.notes if name == "reserve_cpus" else {}
        return {**to_result(module, outcome._replace(notes=notes)), **outcome.actions.get(name, {})}

    run({**STEPS[name].ARGUMENTS, **CLAIM}, call)


def read_steps(items: Sequence[Any]) -> List[Step]:
    """The steps of a list, each checked by its own module's argument spec. Raises IsolationError."""
    steps = []
    for where, name, given in read_items(items):
        steps.append(Step(name, checked(f"{where} ({name})", STEPS[name].ARGUMENTS, given)))
    return steps


def checked(where: str, spec: Mapping[str, Any], given: Mapping[str, Any]) -> Dict[str, Any]:
    """Options with their defaults, checked by an argument spec. Raises IsolationError."""
    result = ArgumentSpecValidator(spec).validate(given)
    if result.error_messages:
        raise IsolationError(f"{where}: {'; '.join(result.error_messages)}")
    return dict(result.validated_parameters)


def to_result(module: AnsibleModule, outcome: Outcome) -> Dict[str, Any]:
    """An outcome as a module's result."""
    for warning in outcome.warnings:
        module.warn(warning)
    # Addresses as plain text: Ansible passes on only types that it knows.
    changes = [{**change._asdict(), "address": str(change.address)} for change in outcome.changes]
    result: Dict[str, Any] = {
        "changed": outcome.changed,
        "changes": changes,
        "prior": {str(address): value for address, value in outcome.prior.items()},
        "left_alone": [{"address": str(a), "reason": reason} for a, reason in sorted(outcome.skipped.items())],
        **outcome.notes,
    }
    if module._diff:
        result["diff"] = {
            "before": "".join(f"{change['address']} {change['before']}\n" for change in changes),
            "after": "".join(f"{change['address']} {change['after']}\n" for change in changes),
        }
    return result


def stop_persisting(module: AnsibleModule, engine: Engine, claims: Optional[Sequence[str]]) -> Sequence[Any]:
    """Have claims (all if None) no longer applied at boot. Returns the files that this removes."""
    if not engine.host.exists(CLAIMS):
        return ()
    from ._install import Installation  # only if there is something to remove

    return Installation(engine.host, module.check_mode).stop_persisting(claims)


def with_files(module: AnsibleModule, result: Dict[str, Any], changes: Sequence[Any]) -> Dict[str, Any]:
    """A module's result with files of ours that it changed: `_install.Difference`s."""
    result = {**result, "changed": result["changed"] or bool(changes), "files": [change.path for change in changes]}
    if module._diff and changes:
        shown = [result["diff"]] if result["changes"] else []
        for change in changes:
            before, after = (_shown(change.path, file) for file in (change.before, change.after))
            shown.append({"before_header": change.path, "after_header": change.path, "before": before, "after": after})
        result["diff"] = shown
    return result


def _shown(path: str, file: Any) -> str:
    """A file for people to read: of the engine's files only their length."""
    if file is None:
        return ""
    return f"{len(file.text.splitlines())} lines\n" if path.endswith(".py") else file.text.rstrip("\n") + "\n"


def _runner(module: AnsibleModule) -> Callable[[Sequence[str]], Tuple[int, str, str]]:
    def run_command(argv: Sequence[str]) -> Tuple[int, str, str]:
        code, out, err = module.run_command(list(argv), handle_exceptions=False)
        return int(code), str(out), str(err)

    return run_command
