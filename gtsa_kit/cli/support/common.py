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

    The helper processes of a multi-device run end as the first one does, which says why.
    """
    if is_first_process():
        what, _, hint = message.partition("; ")
        print(f"gtsa: {what}", file=sys.stderr)
        if hint:
            print(f"  hint: {hint}", file=sys.stderr)
    sys.exit(code)


def is_first_process() -> bool:
    """Whether this process may speak: the others of a run on several devices have a rank above 0.

    Fabric starts helpers with LOCAL_RANK; torchrun says RANK as well, and Slurm SLURM_PROCID, over all machines.
    """
    rank = next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), "0")
    return rank == "0"


def require(path: Path) -> Path:
    """The path if there is something there, else `ValueError`; asked before anything slow is imported."""
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    return path


@contextmanager
def stop_on_signal(on_first: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `on_first`, once, in place of ending the block; a second Ctrl-C ends it at once."""
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
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
