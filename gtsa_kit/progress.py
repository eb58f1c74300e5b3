"""Type of the progress callback, and the category of notes to users."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Function that is called with the task, the number of finished items and their total."""


def no_progress(task: str, done: int, total: int) -> None:
    """Ignore progress."""


class Note(UserWarning):
    """Category of warnings about the user's own input, which the command line prints as one line each."""
