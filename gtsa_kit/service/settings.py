"""What a service is told when it starts."""

from dataclasses import dataclass
from pathlib import Path

MEBI = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Every bound of the service. Seconds, pixels and bytes are in the names where they are not counts."""

    artifact: Path
    device: str = "auto"
    max_batch: int = 32
    max_wait_ms: float = 5.0
    """How long a batch waits for images that are being decoded; never when there are none."""
    max_pending: int = 256
    """Images accepted and not answered yet."""
    max_pending_mb: int = 1024
    """What they may hold in memory, together."""
    max_image_mb: float = 20.0
    max_request_mb: float = 128.0
    """Of a body that holds several images."""
    max_pixels: int = 50_000_000
    max_size: int = 1024
    """The largest height or width that an input may have."""
    token: str | None = None
    workers: int = 1
    samples: Path | None = None
    """Images to choose from on the page."""
    body_seconds: float = 30.0
    """For a body to arrive, and for a piece of an answer to be taken."""
    header_seconds: float = 10.0
    """For the first line and the headers to arrive."""
    drain_seconds: int = 60
    """For accepted requests to be answered after SIGTERM."""

    def __post_init__(self) -> None:
        """Refuse what can't work."""
        counts = ("max_batch", "max_pending", "max_pending_mb", "max_pixels", "workers")
        for name in (*counts, "max_image_mb", "max_request_mb"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        if self.max_wait_ms < 0:
            raise ValueError(f"--max-wait-ms can't be below 0, got {self.max_wait_ms}")
        if self.token is not None and not self.token.isascii():
            raise ValueError("--token takes ASCII characters only")
        if self.token == "":
            raise ValueError("--token is empty; leave it out for a service that is open to all who reach it")

    @property
    def image_bytes(self) -> int:
        """Largest image file."""
        return int(self.max_image_mb * MEBI)

    @property
    def request_bytes(self) -> int:
        """Largest body that holds several."""
        return int(max(self.max_request_mb, self.max_image_mb * 1.4) * MEBI)

    @property
    def pending_bytes(self) -> int:
        """Bound on what accepted requests hold."""
        return self.max_pending_mb * MEBI
