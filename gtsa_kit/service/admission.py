"""Admission control: limits on the images and the memory of all accepted requests."""

import math
import time
from dataclasses import dataclass, field

from gtsa_kit.service.errors import overloaded, too_large


@dataclass
class AdmissionLimiter:
    """Counter of the images and bytes of all accepted requests. It has no lock: one event loop makes all calls."""

    max_images: int
    """Maximum number of images that are accepted and not answered yet."""
    max_bytes: int
    """Maximum memory of the accepted requests, bytes."""
    images: int = 0
    """Images that are accepted and not answered yet."""
    bytes: int = 0
    """Memory that the accepted requests hold, bytes."""
    draining: bool = False
    """True once the service stops accepting requests."""
    _seconds_per_image: float = 0.05
    _last_completion: float = field(default_factory=time.monotonic)

    def acquire(self) -> "Reservation":
        """Reserve capacity for one image; its bytes are reserved later, as they arrive.

        Raises:
            APIError: 503, the queue is full.
        """
        reservation = Reservation(self)
        reservation.acquire(images=1)
        return reservation

    def retry_after(self) -> int:
        """Estimate the seconds until all pending images are answered, from the recent rate; 1 to 60."""
        return max(1, min(60, math.ceil(self.images * self._seconds_per_image)))

    def record_completion(self, images: int) -> None:
        """Update the running mean of seconds per image after `images` were answered."""
        now = time.monotonic()
        seconds = min(1.0, (now - self._last_completion) / images)
        self._seconds_per_image += 0.1 * (seconds - self._seconds_per_image)
        self._last_completion = now


@dataclass
class Reservation:
    """Images and bytes that one request holds of an `AdmissionLimiter`."""

    limiter: AdmissionLimiter
    images: int = 0
    bytes: int = 0

    def acquire(self, images: int = 0, size: int = 0) -> None:
        """Reserve further images and bytes.

        Raises:
            APIError: 413 if the request alone exceeds the memory limit, 503 if it does not fit at the moment.
        """
        limiter = self.limiter
        if self.bytes + size > limiter.max_bytes:
            raise too_large("the memory that the request needs", limiter.max_bytes)
        if limiter.images + images > limiter.max_images or limiter.bytes + size > limiter.max_bytes:
            raise overloaded(limiter.retry_after())
        limiter.images += images
        limiter.bytes += size
        self.images += images
        self.bytes += size

    def release(self) -> None:
        """Return everything to the limiter, when the request is answered, rejected or disconnected."""
        self.limiter.images -= self.images
        self.limiter.bytes -= self.bytes
        self.images = self.bytes = 0
