"""What can go wrong with the stack of one machine, each with its next step."""

from innkeeper.errors import PermanentError


class PortTaken(PermanentError):
    """Another program listens where one of ours should."""

    slug = "port-taken"
    title = "Port taken"


class ProgramDied(PermanentError):
    """A program of the stack ended while starting; the text holds the end of its log."""

    slug = "program-died"
    title = "Program died"


class ProgramNotReady(PermanentError):
    """A program runs but did not answer in time."""

    slug = "program-not-ready"
    title = "Program not ready"


class PostgresMissing(PermanentError):
    """No PostgreSQL server binaries on this machine, or none that fits the cluster."""

    slug = "postgres-missing"
    title = "PostgreSQL missing"


class CommandFailed(PermanentError):
    """A command that sets the stack up ended with an error."""

    slug = "command-failed"
    title = "Command failed"
