"""How much the service has taken on: images and bytes, both bounded, so that its memory is."""

import math
import time
from dataclasses import dataclass, field

from gtsa_kit.service.errors import overloaded, too_large


@dataclass
class Pending:
    """What all accepted requests hold; of one event loop, so without a lock."""

    max_images: int
    max_bytes: int
    images: int = 0
    bytes: int = 0
    draining: bool = False
    _seconds_each: float = 0.05
    _last: float = field(default_factory=time.monotonic)

    def enter(self) -> "Place":
        """A place for one image whose bytes are still to come.

        Raises:
            Refusal: 503, the queue is full.
        """
        place = Place(self)
        place.take(images=1)
        return place

    def retry_after(self) -> int:
        """Seconds until what is pending now is done, at the pace of late; at least 1, at most a minute."""
        return max(1, min(60, math.ceil(self.images * self._seconds_each)))

    def finished(self, images: int) -> None:
        """Learn the pace from what was just done."""
        now = time.monotonic()
        each = min(1.0, (now - self._last) / images)
        self._seconds_each += 0.1 * (each - self._seconds_each)
        self._last = now


@dataclass
class Place:
    """What one request holds of `Pending`."""

    pending: Pending
    images: int = 0
    bytes: int = 0

    def take(self, images: int = 0, size: int = 0) -> None:
        """Hold more.

        Raises:
            Refusal: 413 if it could never fit, 503 if it does not now.
        """
        pending = self.pending
        if self.bytes + size > pending.max_bytes:
            raise too_large("what the request takes in memory", pending.max_bytes)
        if pending.images + images > pending.max_images or pending.bytes + size > pending.max_bytes:
            raise overloaded(pending.retry_after())
        pending.images += images
        pending.bytes += size
        self.images += images
        self.bytes += size

    def leave(self) -> None:
        """Give all of it back; the request was answered, refused, or its client is gone."""
        self.pending.images -= self.images
        self.pending.bytes -= self.bytes
        self.images = self.bytes = 0
