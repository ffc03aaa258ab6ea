"""What may go wrong for a person at the command line, each with its exit code."""

from enum import IntEnum

from innkeeper.errors import InnkeeperError


class ExitCode(IntEnum):
    """Exit codes of `innkeeper`; a contract with scripts, documented in `--help`."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNREACHABLE = 5
    UNAUTHENTICATED = 6


class CliFailure(InnkeeperError):
    """Ends the command: `title` and a sentence for stderr, and the exit code."""

    exit_code = ExitCode.FAILED

    def __init__(self, title: str, detail: str = "") -> None:
        super().__init__(detail or title)
        self.heading = title
        self.detail = detail


class OperationFailed(CliFailure):
    """The operation was accepted and did not succeed."""


class UsageFailure(CliFailure):
    """The command line, or the request made of it, breaks a rule."""

    exit_code = ExitCode.USAGE


class Missing(CliFailure):
    """No such thing."""

    exit_code = ExitCode.NOT_FOUND


class Refused(CliFailure):
    """The API understood and refused: quota, conflict, no host, rate."""

    exit_code = ExitCode.REFUSED


class Unreachable(CliFailure):
    """The API does not answer, or answers with a fault of its own."""

    exit_code = ExitCode.UNREACHABLE


class Unauthorised(CliFailure):
    """No valid key, or a key whose role does not allow this."""

    exit_code = ExitCode.UNAUTHENTICATED


_BY_STATUS: dict[int, type[CliFailure]] = {
    400: UsageFailure,
    401: Unauthorised,
    404: Missing,
    405: Missing,
    410: Missing,
    413: UsageFailure,
    415: UsageFailure,
}
_BY_SLUG: dict[str, type[CliFailure]] = {
    "forbidden": Unauthorised,
    "invalid-request": UsageFailure,
    "validation-failed": UsageFailure,
}
_SERVER_FAULT = 500


def failure_class(status: int, slug: str) -> type[CliFailure]:
    """Return the failure that a problem means; the slug decides before the HTTP status."""
    if slug in _BY_SLUG:
        return _BY_SLUG[slug]
    if status >= _SERVER_FAULT:
        return Unreachable
    return _BY_STATUS.get(status, Refused)


def exit_code_of(error: InnkeeperError) -> ExitCode:
    """Return the exit code for an error raised on this machine (lab, stack) or by the API."""
    if isinstance(error, CliFailure):
        return error.exit_code
    local = failure_class(error.status, error.slug).exit_code
    return ExitCode.FAILED if local is ExitCode.UNREACHABLE else local
