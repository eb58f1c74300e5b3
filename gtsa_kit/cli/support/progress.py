"""Showing how far a command is. Imports rich; commands import this when they run."""

import time
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


def console() -> Console:
    """Standard error: standard output stays free for what a command is asked to print."""
    return Console(stderr=True, highlight=False)


class _BarOverText(Progress):
    """One bar, and below it a line that a narrow terminal folds rather than cuts."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Called by rich at every refresh."""
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.fields["text"], overflow="fold") for task in self.tasks if task.fields["text"])


class Steps:
    """Progress for people: a live bar on a terminal, elsewhere (logs, CI) a plain line every ten seconds."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, out: Console) -> None:
        self.out = out
        self._live = _BarOverText(
            *(TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn()),
            *(TextColumn("left"), TimeRemainingColumn()),
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
        """Now at `done`; `text` below the bar, `line` (by default the same) in a plain line."""
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
