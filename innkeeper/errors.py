"""The error catalogue: every error is either worth a retry or tells the user what to do.

`TransientError` and `PermanentError` decide whether a Prefect task retries; `status` and `slug`
decide once how an error looks over HTTP (RFC 9457).
"""

from typing import ClassVar


class InnkeeperError(Exception):
    """Base of all errors raised on purpose; its text is one sentence fit for a user."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"


class TransientError(InnkeeperError):
    """May pass by itself: a retry of the same step is right."""

    status = 503
    slug = "temporarily-unavailable"
    title = "Temporarily unavailable"


class PermanentError(InnkeeperError):
    """Will not pass by itself: the sentence names the cause and the next step."""

    status = 422
    slug = "request-refused"
    title = "Request refused"


class HostUnreachable(TransientError):
    """A host's libvirt or command channel does not answer."""

    slug = "host-unreachable"
    title = "Host unreachable"


class NotFound(PermanentError):
    """No such thing, or it belongs to another project."""

    status = 404
    slug = "not-found"
    title = "Not found"


class InvalidRequest(PermanentError):
    """The request contradicts a rule."""

    slug = "invalid-request"
    title = "Invalid request"


class Conflict(PermanentError):
    """The thing exists already, or its state does not allow the verb."""

    status = 409
    slug = "conflict"
    title = "Conflict"


class QuotaExceeded(PermanentError):
    """The project's quota does not cover the request."""

    status = 403
    slug = "quota-exceeded"
    title = "Quota exceeded"


class NoHostFits(PermanentError):
    """No host can take the server; the text names every host and why it was refused."""

    status = 409
    slug = "no-host-fits"
    title = "No host fits"


class ForwardPortsExhausted(PermanentError):
    """Every forward port at the edge of the host is taken."""

    status = 409
    slug = "forward-ports-exhausted"
    title = "Forward ports exhausted"


class Unauthenticated(PermanentError):
    """No API key, or one that is unknown or revoked."""

    status = 401
    slug = "unauthenticated"
    title = "Unauthenticated"


class Forbidden(PermanentError):
    """The key's role does not allow this."""

    status = 403
    slug = "forbidden"
    title = "Forbidden"


class TooManyRequests(PermanentError):
    """The key has used up its rate for now."""

    status = 429
    slug = "too-many-requests"
    title = "Too many requests"


class ClaimLost(PermanentError):
    """A newer attempt holds the server: this run must not touch anything any more."""

    status = 409
    slug = "claim-lost"
    title = "Claim lost"


class OperationCancelled(PermanentError):
    """Somebody asked for the operation to be cancelled."""

    status = 409
    slug = "operation-cancelled"
    title = "Operation cancelled"
