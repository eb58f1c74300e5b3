"""Exit codes, signals and the check that a path exists, for all commands."""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from gtsa_kit.cycles import no_cycle_search

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)


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
        raise ValueError(f"{path} does not exist{_convert_hint(path)}")
    return path


def _convert_hint(path: Path) -> str:
    """Return the hint for the name of packaged weights, which commands that start no training do not look up."""
    from gtsa_kit.models.packaged_weights import PACKAGED_WEIGHTS

    return (
        f"; gtsa convert {path} --out DIR writes its weights for this command" if str(path) in PACKAGED_WEIGHTS else ""
    )


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import modules without searching their objects for reference cycles, now and later.

    Modules live until the process ends, so that there is nothing to find. A process that only runs a command calls it.
    """
    with no_cycle_search():
        try:
            yield
        finally:
            gc.freeze()


REPEAT_SECONDS = 1.0
"""A second SIGTERM within this time is the first one, delivered again: to the process group and by its launcher."""


@contextmanager
def stop_on_signal(on_first: Callable[[], None]) -> Iterator[None]:
    """Call `on_first` at the first Ctrl-C, SIGTERM or SIGHUP in place of ending the block.

    A second Ctrl-C or SIGTERM ends it at once. SIGHUP comes with the end of the terminal, whose output is dropped from
    then on; it comes more than once. A command under nohup keeps ignoring it.
    """
    first: tuple[int, float] | None = None
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if number == HANGUP:
            _drop_output(terminals)
        if first is None:
            first = number, time.monotonic()
            on_first()
        elif number == signal.SIGINT or (number == first[0] != HANGUP and time.monotonic() - first[1] > REPEAT_SECONDS):
            raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
        numbers.append(HANGUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _drop_output(streams: list[int]) -> None:
    """Send these streams to the null device: writing to a terminal that is gone raises an error."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(null, stream)
    os.close(null)
