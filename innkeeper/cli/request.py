"""From command-line options to the body of a request for a server."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from innkeeper.cli.failures import UsageFailure
from innkeeper.cli.output import say
from innkeeper.domain.lines import check_ssh_key
from innkeeper.settings import settings

_LITERAL = ("ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-")
STDIN = "-"


def ssh_keys(sources: list[str]) -> list[str]:
    """Return public keys of files (`-`: stdin) or given literally, each once.

    Without sources: the user's ~/.ssh/*.pub, else Innkeeper's own public key.

    Raises:
        UsageFailure: a file cannot be read, holds no public key, or holds a private one.
    """
    if not sources:
        return _default_keys()
    keys = [key for source in sources for key in _keys_of(source)]
    return list(dict.fromkeys(keys))


def roles(names: list[str], variables: Path | None) -> list[dict[str, Any]]:
    """Return role requests of `name[:key=value,…]` words and a file of role: {variable: value}.

    Values are JSON where they can be (`true`, `5`), else text. What is given on the command line
    wins over the file; a role that only the file names is applied, too.

    Raises:
        UsageFailure: a word or the file has another form.
    """
    requested: dict[str, dict[str, Any]] = {}
    for word in names:
        name, _, pairs = word.partition(":")
        if not name:
            raise UsageFailure("Unclear role", f"'{word}' should look like name or name:key=value.")
        requested.setdefault(name, {}).update(_variables(word, pairs))
    for name, values in _role_file(variables).items():
        requested[name] = values | requested.get(name, {})
    return [{"name": name, "variables": values} for name, values in requested.items()]


def text_of(source: str, what: str) -> str:
    """Return a file's text (`-`: stdin).

    Raises:
        UsageFailure: it cannot be read or is not UTF-8.
    """
    try:
        return sys.stdin.read() if source == STDIN else Path(source).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageFailure(f"Cannot read the {what}", f"{source}: {reason}.") from error


def numbered(name: str, count: int | None) -> list[str]:
    """Return the names of `count` servers: NAME-1 to NAME-count; NAME itself for None."""
    return [name] if count is None else [f"{name}-{number}" for number in range(1, count + 1)]


def _default_keys() -> list[str]:
    own: list[str] = []
    for path in sorted((Path.home() / ".ssh").glob("*.pub")):
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        own += [line.strip() for line in lines if _is_key(line)]
    if own:
        return list(dict.fromkeys(own))
    public = settings().identity_file.with_suffix(".pub")
    try:
        return [public.read_text("utf-8").strip()]
    except OSError:
        say("No SSH key found: nobody but Innkeeper will be able to log in. See --ssh-key.")
        return []


def _keys_of(source: str) -> list[str]:
    literal = source.startswith(_LITERAL) and len(source.split()) > 1
    text = source if literal else text_of(source, "SSH key")
    if "PRIVATE KEY" in text:
        raise UsageFailure("That is a private key", f"Name the public half: {source}.pub.")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        keys = [check_ssh_key(line) for line in lines]
    except ValueError as error:
        raise UsageFailure("Not an SSH public key", f"{source}: {error}.") from error
    if not keys:
        raise UsageFailure("Not an SSH public key", f"{source} holds no key.")
    return keys


def _is_key(line: str) -> bool:
    try:
        check_ssh_key(line)
    except ValueError:
        return False
    return True


def _variables(word: str, pairs: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in filter(None, pairs.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageFailure(
                "Unclear role", f"'{word}' should look like name:key=value,key=value."
            )
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return values


def _role_file(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None:
        return {}
    try:
        document = yaml.safe_load(text_of(str(path), "role variables"))
    except yaml.YAMLError as error:
        raise UsageFailure("Cannot read the role variables", f"{path} is not YAML.") from error
    if not isinstance(document, dict) or not all(
        isinstance(value, dict | None) for value in document.values()
    ):
        raise UsageFailure(
            "Cannot read the role variables", f"{path} should map each role to its variables."
        )
    return {str(name): values or {} for name, values in document.items()}
