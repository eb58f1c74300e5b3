"""Settings of the feature service: limits, timeouts, the artifact and the token."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from gtsa_kit.export.open_options import LoadOptions

MEBIBYTE = 1 << 20
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s,]+", re.IGNORECASE)
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


@dataclass(frozen=True)
class ServiceSettings:
    """Limits and resources of the service.

    Raises:
        ValueError: A limit is not positive, or the token is empty or not ASCII; an origin or the root path is invalid.
    """

    artifact: Path
    """File or folder that `gtsa_kit.export.load` opens."""
    load: LoadOptions = field(default_factory=LoadOptions)
    """Options to open the artifact with."""
    heads: tuple[tuple[str, Path], ...] = ()
    """Name and run folder of each head beside an encoder."""
    max_batch: int | None = None
    """Images of the artifact's own size in a batch; batches of larger images hold fewer. None: `default_batch`."""
    max_wait_ms: float = 5.0
    """Milliseconds that a partial batch waits while other images are being decoded. A lone request never waits."""
    max_pending: int = 256
    """Maximum number of images that are accepted and not answered yet."""
    max_pending_mb: int = 1024
    """Maximum memory of all accepted requests, MiB."""
    max_image_mb: float = 20.0
    """Maximum size of an image file, MiB."""
    max_request_mb: float = 128.0
    """Maximum size of a body that holds several images, MiB."""
    max_pixels: int = 50_000_000
    """Maximum pixels of an image, by its header."""
    max_size: int = 1024
    """Maximum height and width of the model's input, pixels."""
    token: str | None = None
    """Bearer token that clients must send; None leaves the service open."""
    workers: int = 1
    """Processes, each with its own model."""
    cors: tuple[str, ...] = ()
    """Origins of web pages that may use the service; "*" allows all."""
    root_path: str = ""
    """Path prefix under which a proxy publishes the service, without a slash at the end."""
    samples: Path | None = None
    """Folder of sample images for the page; None selects installed ones."""
    show: str | None = None
    """Channels of pictures, as `models.pictures.parse_display_channels` takes them; None shows the first ones."""
    body_timeout: float = 30.0
    """Seconds within which a body must arrive."""
    drain_timeout: int = 60
    """Seconds in which accepted requests are answered after SIGTERM."""

    def __post_init__(self) -> None:
        """Validate the values."""
        counts = ("max_batch", "max_pending", "max_pending_mb", "max_pixels", "workers")
        for name in (*counts, "max_image_mb", "max_request_mb"):
            if (limit := getattr(self, name)) is not None and limit <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        if self.max_wait_ms < 0:
            raise ValueError(f"--max-wait-ms can't be below 0, got {self.max_wait_ms}")
        if self.token is not None and not self.token.isascii():
            raise ValueError("--token must consist of ASCII characters")
        if self.token == "":
            raise ValueError("--token is empty; omit it for a service without authentication")
        for origin in self.cors:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"--cors takes an origin without a path, got {origin!r}; https://example.org, or *")
        if not _ROOT_PATH.fullmatch(self.root_path):
            raise ValueError(f"--root-path begins with a slash and ends without one, got {self.root_path!r}; /features")

    @property
    def max_image_bytes(self) -> int:
        """Maximum size of an image file, bytes."""
        return int(self.max_image_mb * MEBIBYTE)

    @property
    def max_request_bytes(self) -> int:
        """Maximum size of a body that holds several images, bytes."""
        return int(max(self.max_request_mb, self.max_image_mb * 1.4) * MEBIBYTE)

    @property
    def max_pending_bytes(self) -> int:
        """Maximum memory of all accepted requests, bytes."""
        return self.max_pending_mb * MEBIBYTE
