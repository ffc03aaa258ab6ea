"""How an import can fail. The permanent ones mean that the image can never become usable."""

from innkeeper.errors import PermanentError, TransientError


class SourceRefused(PermanentError):
    """The source is of a kind or in a place from which nothing is imported."""

    slug = "image-source-refused"
    title = "Image source refused"


class SourceMissing(PermanentError):
    """There is nothing at the source, or we may not read it."""

    slug = "image-source-missing"
    title = "Image source missing"


class SourceUnavailable(TransientError):
    """The source did not answer or broke off; what was fetched is kept for the next try."""

    slug = "image-source-unavailable"
    title = "Image source unavailable"


class ImportBusy(TransientError):
    """Another process imports from the same source right now."""

    slug = "image-import-busy"
    title = "Image import busy"


class ImageTooLarge(PermanentError):
    """The image, or the disk that it describes, is larger than allowed."""

    status = 413
    slug = "image-too-large"
    title = "Image too large"


class StoreFull(PermanentError):
    """The image store has no space left."""

    status = 507
    slug = "image-store-full"
    title = "Image store full"


class ShelfFull(PermanentError):
    """The shelf has no space left."""

    status = 507
    slug = "shelf-full"
    title = "Shelf full"


class ShelfFileDamaged(PermanentError):
    """A file on the shelf is missing, or is not what was put there."""

    slug = "shelf-file-damaged"
    title = "Shelf file damaged"


class ChecksumDiffers(PermanentError):
    """The content is not the one whose SHA-256 was given."""

    slug = "image-checksum-differs"
    title = "Image checksum differs"


class ImageRefused(PermanentError):
    """The image refers to other files, is encrypted, or is no disk image at all."""

    slug = "image-refused"
    title = "Image refused"


class ImageCorrupt(PermanentError):
    """The image is damaged."""

    slug = "image-corrupt"
    title = "Image corrupt"
