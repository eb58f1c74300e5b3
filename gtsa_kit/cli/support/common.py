"""Exit codes, signals and the check that a path exists, for all commands."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn


def fail(message: str, code: int) -> NoReturn:
    """Print one line and a hint to standard error and exit; see `split_hint`.

    In a run on several devices only the first process prints; the others exit with the same code.
    """
    if is_first_process():
        error, hint = split_hint(message, sys.argv[1:])
        print(f"gtsa: {error}", file=sys.stderr)
        if hint:
            print(f"  hint: {hint}", file=sys.stderr)
    sys.exit(code)


def split_hint(message: str, arguments: Sequence[str] = ()) -> tuple[str, str]:
    """Split a message into the error and the hint, which is the text after the last "; "; "" if there is none.

    A "; " inside of an argument of the command line, such as a path, is no separator.
    """
    mask = message
    for argument in arguments:
        mask = mask.replace(argument, "x" * len(argument)) if "; " in argument else mask
    end = mask.rfind("; ")
    return (message, "") if end < 0 else (message[:end], message[end + 2 :])


def is_first_process() -> bool:
    """Return whether this process may print: the others of a run on several devices have a rank above 0.

    Fabric starts processes with LOCAL_RANK. torchrun also sets RANK, and Slurm SLURM_PROCID, counted over all machines.
    """
    rank = next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), "0")
    return rank == "0"


def require(path: Path) -> Path:
    """Return the path if it exists, else raise `ValueError`. Commands call this before they import anything slow."""
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    return path


@contextmanager
def stop_on_signal(on_first: Callable[[], None]) -> Iterator[None]:
    """Call `on_first` at the first Ctrl-C or SIGTERM in place of ending the block; a second Ctrl-C ends it at once."""
    received = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not received:
            received = True
            on_first()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
