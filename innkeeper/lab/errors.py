"""What can go wrong with the lab."""

from innkeeper.errors import PermanentError, TransientError


class LabNeedsRoot(PermanentError):
    """Namespaces, mounts and libvirtd need root."""

    slug = "lab-needs-root"
    title = "The lab needs root"


class LabCannotStart(PermanentError):
    """A program of the lab is missing or refused to work."""

    slug = "lab-cannot-start"
    title = "The lab cannot start"


class ImageBuildFailed(PermanentError):
    """A lab image could not be built from Debian packages."""

    slug = "image-build-failed"
    title = "Image build failed"


class LabProcessesRemain(TransientError):
    """Processes of a lab host outlived every signal so far."""

    slug = "lab-processes-remain"
    title = "Lab processes remain"
