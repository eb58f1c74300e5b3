"""What the commands share: exits, signals, a first look at their arguments."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn


def fail(message: str, code: int) -> NoReturn:
    """Print one line (and, after the first semicolon, a hint) to standard error and exit.

    The helper processes of a multi-device run (LOCAL_RANK above 0) end as the first one does, which says why.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        what, _, hint = message.partition("; ")
        print(f"gtsa: {what}", file=sys.stderr)
        if hint:
            print(f"  hint: {hint}", file=sys.stderr)
    sys.exit(code)


def require(path: Path) -> Path:
    """The path if there is something there, else `ValueError`; asked before anything slow is imported."""
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    return path


@contextmanager
def stop_on_signal(on_first: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM become a flag for the block to look at; a second Ctrl-C ends it at once.

    Args:
        on_first: Called once, from the signal handler.

    Yields:
        Whether a signal came.
    """
    came = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not came:
            came = True
            on_first()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for number, old in before.items():
            signal.signal(number, old)
