"""Decoding of large images one at a time, so that only one of them is in memory."""

import threading
from contextlib import AbstractContextManager, nullcontext

LARGE_IMAGE_PIXELS = 24_000_000
"""Number of pixels above which images are decoded one at a time."""

_lock = threading.Lock()


def one_large_image(pixels: int) -> AbstractContextManager[object]:
    """Return a context that one image of more than `LARGE_IMAGE_PIXELS` is in at a time, and any number of others."""
    return _lock if pixels > LARGE_IMAGE_PIXELS else nullcontext()
