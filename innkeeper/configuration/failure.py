"""How a configuration can fail."""

from innkeeper.errors import PermanentError, TransientError


class GuestUnreachable(TransientError):
    """The guest does not answer over SSH, or stopped answering."""

    slug = "guest-unreachable"
    title = "Guest unreachable"


class HostKeyDiffers(PermanentError):
    """Something that answers at the guest's address does not have the guest's host key."""

    status = 409
    slug = "host-key-differs"
    title = "Host key differs"


class ConfigurationFailed(PermanentError):
    """A task of a role failed; the text names server, task and reason."""

    slug = "configuration-failed"
    title = "Configuration failed"


class ConfigurationTimedOut(TransientError):
    """The roles were not applied in time."""

    slug = "configuration-timed-out"
    title = "Configuration timed out"
