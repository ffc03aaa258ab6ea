"""The roles that may be requested, and their options, as the roles themselves declare them.

Each role's `meta/argument_specs.yml` is read here to list and to check, and by Ansible to check
again when the role starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import (  # type: ignore[import-untyped]
    ArgumentSpecValidator,
)

from innkeeper.errors import InvalidRequest

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
BASE = "base"
_CHECKED = frozenset(
    {"type", "elements", "required", "default", "choices", "options", "no_log", "aliases"}
)
_SECRET_LENGTH = 4  # shorter values would blot out half of every text


class RoleVariableInvalid(InvalidRequest):
    """A role's variable is unknown, missing or of the wrong type."""

    slug = "role-variable-invalid"
    title = "Role variable invalid"


class RoleUnknown(InvalidRequest):
    """There is no such role."""

    slug = "role-unknown"
    title = "Role unknown"


@dataclass(frozen=True)
class Option:
    """A variable of a role; `secret` ones appear in no log."""

    name: str
    type: str
    description: str
    required: bool
    default: Any = None
    choices: tuple[Any, ...] = ()
    secret: bool = False


@dataclass(frozen=True)
class Role:
    """A role that a request may name."""

    name: str
    description: str
    options: tuple[Option, ...]


def roles() -> list[Role]:
    """Return all roles that may be requested, by name; the base role is always applied."""
    return [_described(name, spec) for name, spec in sorted(_specs().items()) if name != BASE]


def validate(role: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables as the role gets them: checked, converted, with defaults.

    Raises:
        RoleUnknown: there is no such role.
        RoleVariableInvalid: the text names the first bad variable and never a secret's value.
    """
    if role == BASE or role not in _specs():
        known = ", ".join(found.name for found in roles())
        raise RoleUnknown(f"There is no role '{role}': choose from {known}.")
    options = _specs()[role].get("options") or {}
    checked = ArgumentSpecValidator(_checkable(options)).validate(dict(variables))
    if checked.error_messages:
        reason = hidden(checked.error_messages[0], secrets(role, variables))
        raise RoleVariableInvalid(f"Role '{role}' cannot be applied: {reason.rstrip('.')}.")
    return dict(checked.validated_parameters)


def secrets(role: str, variables: Mapping[str, Any]) -> list[str]:
    """Return the texts among a role's variables that nobody may see in a log or an error."""
    options = (_specs().get(role) or {}).get("options") or {}
    return sorted(set(_secrets(options, variables)), key=len, reverse=True)


def hidden(text: str, values: list[str]) -> str:
    """Return the text with each of the values blotted out."""
    for value in values:
        text = text.replace(value, "…")
    return text


def _secrets(options: Mapping[str, Any], value: Any) -> list[str]:
    found = []
    for name, spec in options.items():
        given = value.get(name) if isinstance(value, Mapping) else None
        if spec.get("no_log"):
            found += [text for text in _texts(given) if len(text) >= _SECRET_LENGTH]
        elif spec.get("options"):
            for inner in given if isinstance(given, list) else [given]:
                found += _secrets(spec["options"], inner)
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    return [] if value is None else [str(value)]


def _checkable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an argument spec is for checking; the rest is prose for people."""
    found: dict[str, Any] = {}
    for name, spec in options.items():
        kept = {key: value for key, value in spec.items() if key in _CHECKED}
        if "options" in kept:
            kept["options"] = _checkable(kept["options"])
        found[name] = kept
    return found


def _described(name: str, spec: Mapping[str, Any]) -> Role:
    options = tuple(
        Option(
            name=option,
            type=_typed(about),
            description=str(about.get("description", "")),
            required=bool(about.get("required", False)),
            default=about.get("default"),
            choices=tuple(about.get("choices", ())),
            secret=bool(about.get("no_log", False)),
        )
        for option, about in (spec.get("options") or {}).items()
    )
    return Role(name, str(spec.get("short_description", "")), options)


def _typed(about: Mapping[str, Any]) -> str:
    kind = str(about.get("type", "str"))
    return f"{kind} of {about['elements']}" if "elements" in about else kind


@cache
def _specs() -> dict[str, dict[str, Any]]:
    found = {}
    for file in (ANSIBLE / "roles").glob("*/meta/argument_specs.yml"):
        document = yaml.safe_load(file.read_text())
        found[file.parents[1].name] = document["argument_specs"]["main"]
    return found
