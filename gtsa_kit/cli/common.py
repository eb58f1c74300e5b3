"""What the commands share: consoles, exits, signals."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.console import Console


def console() -> "Console":
    """Standard error: standard output stays free for what a command is asked to print."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


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


class Steps:
    """Progress for people: a live bar on a terminal, elsewhere (logs, CI) a plain line every ten seconds."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, out: "Console") -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.out = out
        self._live = Progress(
            *(TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn()),
            *(TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[text]}")),
            console=out,
            disable=not out.is_terminal,
        )
        self._task = self._live.add_task("", total=None, text="", visible=False)
        self.begin("", 0)

    def begin(self, what: str, total: int, done: int = 0, unit: str = "") -> None:
        """Start counting something new; `done` of it was there before. With a `unit`, its rate is shown."""
        self.what, self.total, self.first, self.unit = what, total, done, unit
        self._started = self._spoke = time.monotonic()
        self._gone = 0
        self._live.reset(self._task, description=what, total=total, completed=done, text="", visible=bool(what))

    @property
    def rate(self) -> float:
        """Of what is counted, a second, since `begin`."""
        return self._gone / max(time.monotonic() - self._started, 1e-9)

    def update(self, done: int, text: str = "", line: str = "") -> None:
        """Now at `done`; `text` beside the bar, `line` (by default the same) in a plain line."""
        self._gone = done - self.first
        self._live.update(self._task, completed=done)
        if self.unit:
            text = f"{self.rate:.1f} {self.unit}/s  {text}".rstrip()
        if text:
            self._live.update(self._task, text=text)
        now = time.monotonic()
        due = now - self._spoke > self.SECONDS_BETWEEN_LINES or done == self.total
        if due and not self.out.is_terminal:
            self._spoke = now
            left = f"about {(self.total - done) / self.rate:.0f} s left" if self.rate > 0 else ""
            self.out.print(f"{self.what}: {done} of {self.total}  {line or text}  {left}".rstrip(), soft_wrap=True)

    def __enter__(self) -> "Steps":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


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
