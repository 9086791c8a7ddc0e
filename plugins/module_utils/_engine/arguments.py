# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""Options from JSON, checked against an argument spec without Ansible."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Tuple

from .errors import IsolationError, as_text, quoted

LONGEST_NAME = 80  # that is shown as it is
COLLECTION = "vfio.isolation."
TYPES = {"str": str, "bool": bool, "int": int, "list": list, "dict": dict}


def validated(what: str, spec: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> Dict[str, Any]:
    """Options with the defaults of those that are missing. Raises IsolationError."""
    unknown = set(given) - set(spec)
    if unknown:
        names = ", ".join(name if len(name) < LONGEST_NAME else quoted(name) for name in sorted(map(str, unknown)))
        raise IsolationError(f"{what} has no option {names}; it has {', '.join(spec)}")
    missing = [option for option in spec if spec[option].get("required") and given.get(option) is None]
    if missing:
        raise IsolationError(f"{what} needs {', '.join(missing)}")
    for option, value in given.items():
        kind = spec[option]["type"]
        is_number = not isinstance(value, bool)  # in Python a bool is an int
        fits = isinstance(value, TYPES.get(kind, object)) and (is_number or kind in ("bool", "raw"))
        if value is not None and not fits:
            raise IsolationError(f"{what}: {option} is {quoted(value)}; expected {kind}")
        if kind == "list" and value is not None:
            given = {**given, option: [_element(what, option, spec[option].get("elements"), one) for one in value]}
        choices = spec[option].get("choices")
        if choices and value is not None and value not in choices:
            raise IsolationError(f"{what}: {option} is {quoted(value)}; expected one of {', '.join(choices)}")
    available = {option: value for option, value in given.items() if value is not None}
    return {option: available.get(option, spec[option].get("default")) for option in spec}


def check_claim(name: Any) -> str:
    """The name of a claim. Raises IsolationError if it is none."""
    if not isinstance(name, str) or not name.isprintable() or not name.strip() or len(name) > 255:
        raise IsolationError(f"claim: {quoted(name)} is not a valid name; expected 1 to 255 printable characters")
    return name


def _element(what: str, option: str, kind: Any, value: Any) -> Any:
    """One element of a list; a number is accepted as text, as in Ansible."""
    if kind == "str" and isinstance(value, int) and not isinstance(value, bool):
        return as_text(value)
    if not isinstance(value, TYPES.get(kind, object)) or (isinstance(value, bool) and kind == "int"):
        raise IsolationError(f"{what}: {option} has {quoted(value)}; expected {kind}")
    return value


def read_item(item: Any, where: str) -> Optional[Tuple[str, Any]]:
    """The module and its arguments that one item of a list of steps names; None if its `when` is false.

    An item is a mapping of one module to its arguments, with an optional `when`. Raises IsolationError.
    """
    named = {key: value for key, value in item.items() if key != "when"} if isinstance(item, Mapping) else {}
    if len(named) != 1:
        raise IsolationError(f"{where}: expected one module with its arguments, such as drop_caches: {{}}")
    wanted = as_text(item.get("when", True)).lower()
    if wanted not in ("true", "false"):
        raise IsolationError(f"{where}: when is {quoted(item['when'])}; expected true or false")
    if wanted == "false":
        return None
    ((name, arguments),) = named.items()
    short = str(name)[len(COLLECTION) :] if str(name).startswith(COLLECTION) else str(name)
    return short, arguments
