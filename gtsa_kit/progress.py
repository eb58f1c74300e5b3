"""How evaluations say how far they are, without printing."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Told (what is done, how many so far, of how many)."""


def no_progress(what: str, done: int, total: int) -> None:
    """For those who don't want to know."""
