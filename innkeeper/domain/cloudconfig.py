"""Reading of a user's cloud-config: plain YAML, bounded before anything is built from it."""

from typing import Any

import yaml

DEPTH = 32
"""Levels of nesting; what YAML can read may be nested too deep to be written again."""

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str) -> dict[str, Any]:
    """Return a cloud-config as a mapping; an empty document is an empty one.

    Aliases are refused: a few hundred bytes of them can stand for more than any memory holds.

    Raises:
        ValueError: it is not YAML, not a mapping, nested too deep, or uses aliases.
    """
    try:
        _bound(text)
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a safe loader
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("user-data is not valid YAML") from error
    if document is None:
        return {}
    if isinstance(document, dict):
        return document
    raise ValueError("cloud-config is a YAML mapping")


def _bound(text: str) -> None:
    """Walk over the events, which costs no more than the text is long."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("cloud-config must not have aliases (*name)")  # noqa: TRY004 - no type
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH:
            raise ValueError(f"cloud-config is nested deeper than {DEPTH} levels")
