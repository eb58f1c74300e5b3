"""Progress bars of commands. Commands import this module when they run, since it imports rich."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from gtsa_kit.progress import ProgressCallback


def make_console() -> Console:
    """Return a console on standard error; standard output carries requested results alone.

    It prints text as it is: a path may hold what rich takes for markup (`a[/b]`) or for an emoji (`:dog:`).
    """
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def make_result_console() -> Console:
    """Return a console on standard output that prints text as it is, for requested results."""
    return Console(highlight=False, markup=False, emoji=False)


def print_next(command: str, out: Console) -> None:
    """Print the command that may follow, in one line that can be copied, however narrow the terminal is."""
    out.print(f"next: {command}", markup=False, soft_wrap=True)


class _BarOverText(Progress):
    """Progress bar with a line of text below it, which wraps on a narrow terminal."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar and its text; rich calls this at every refresh."""
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.fields["text"], overflow="fold") for task in self.tasks if task.fields["text"])


class Steps:
    """Progress of consecutive stages: a live bar on a terminal, a plain line every ten seconds in logs."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, out: Console) -> None:
        self.out = out
        self._live = _BarOverText(
            *(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            ),
            *(TextColumn("left"), TimeRemainingColumn()),
            console=out,
            disable=not out.is_terminal,
        )
        self._task = self._live.add_task("", total=None, text="", visible=False)
        self.begin("", 0)

    def begin(self, stage: str, total: int, done: int = 0, unit: str = "") -> None:
        """Start a stage of `total` items, of which `done` are finished. With a `unit` its rate is displayed."""
        self.stage, self.total, self.first, self.unit = stage, total, done, unit
        self._started = self._printed = time.monotonic()
        self._finished = 0
        self._live.reset(self._task, description=stage, total=total, completed=done, text="", visible=bool(stage))

    @property
    def rate(self) -> float:
        """Items per second since the stage began."""
        return self._finished / max(time.monotonic() - self._started, 1e-9)

    def update(self, done: int, text: str = "", line: str = "") -> None:
        """Advance to `done`, with `text` below the bar; plain lines contain `line`, by default the same text."""
        self._finished = done - self.first
        self._live.update(self._task, completed=done)
        if self.unit:
            text = f"{self.rate:.1f} {self.unit}/s  {text}".rstrip()
        if text:
            self._live.update(self._task, text=text)
        now = time.monotonic()
        due = now - self._printed > self.SECONDS_BETWEEN_LINES or done == self.total
        if due and not self.out.is_terminal:
            self._printed = now
            left = f"about {(self.total - done) / self.rate:.0f} s left" if self.rate > 0 else ""
            self.out.print(f"{self.stage}: {done} of {self.total}  {line or text}  {left}".rstrip(), soft_wrap=True)

    def __enter__(self) -> "Steps":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """Show a progress bar on standard error during the block, and yield the callback that updates it."""
    with Steps(make_console()) as steps:

        def on_progress(task: str, done: int, total: int) -> None:
            if task != steps.stage:
                steps.begin(task, total, unit="")
            steps.update(done, f"{steps.rate:.1f} a second")

        yield on_progress
