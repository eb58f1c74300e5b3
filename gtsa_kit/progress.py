"""Progress callbacks: functions report progress through them and never print."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Function that is called with the task, the number of finished items and their total."""


def no_progress(task: str, done: int, total: int) -> None:
    """Ignore progress."""
