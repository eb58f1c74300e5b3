"""Rows that the output of `--dry-run` has for every kind of run."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.table import Table

from gtsa_kit.cli.support.progress import make_result_console
from gtsa_kit.training.measured_steps import StepsEstimate


def print_estimate(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values."""
    table = Table(title="estimate; nothing was written", title_justify="left", show_header=False, box=None)
    for _ in range(2):
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    make_result_console().print(table)


def speed_rows(result: StepsEstimate) -> Iterator[tuple[str, str]]:
    """Yield the names and values of length and speed."""
    yield "steps", f"{result.steps} of {result.images_per_step} images"
    yield (
        "speed",
        f"{result.images_per_second:.3g} images/s, mean of {result.measured_steps} "
        f"{'step' if result.measured_steps == 1 else 'steps'} with loading",
    )


def hours(seconds: float) -> str:
    """Return a duration in hours and in seconds."""
    return f"{seconds / 3600:.3g} hours ({seconds:.0f} s)"


def disk(total: int, checkpoint: int, run_dir: Path) -> str:
    """Return the bytes of a run folder, those of a checkpoint, and those that are free."""
    return (
        f"{total / 1e9:.2g} GB at most, of them {checkpoint / 1e9:.2g} GB for each checkpoint; "
        f"{_free_bytes(run_dir) / 1e9:.3g} GB free"
    )


def _free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that a folder lies on or would lie on."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
