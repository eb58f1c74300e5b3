"""Output of `gtsa train --dry-run`. This module imports torch, so the command imports it only when it runs."""

import shutil
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from rich.table import Table

from gtsa_kit.cli.support.common import is_first_process
from gtsa_kit.cli.support.progress import make_console, make_result_console
from gtsa_kit.cli.support.training_display import training_display
from gtsa_kit.config import RunConfig
from gtsa_kit.training.dry_run import RunEstimate, dry_run
from gtsa_kit.training.pretrain import open_weights_to_start

NAMED_UNREADABLE = 5
"""Number of unreadable images that are named."""


def estimate_run(config: RunConfig, run_dir: Path, given: Collection[str]) -> bool:
    """Print how long a run would take and what it needs; return False if it was stopped.

    Args:
        config: Settings of the run.
        run_dir: Folder that the run would write.
        given: Dotted keys of the settings that are no defaults.
    """
    out = make_console()
    out.quiet = not is_first_process()
    config, start = open_weights_to_start(config, run_dir, False, given)
    with training_display(out) as display:
        result = dry_run(config, display, start)
    if result and is_first_process():
        make_result_console().print(estimate_table(result, run_dir))
    return result is not None


def estimate_table(result: RunEstimate, run_dir: Path) -> Table:
    """Build the table of an estimate."""
    table = Table(title="estimate; nothing was written", title_justify="left", show_header=False, box=None)
    for _ in range(2):
        table.add_column(overflow="fold")
    for row in _rows(result, run_dir):
        table.add_row(*row)
    return table


def _rows(result: RunEstimate, run_dir: Path) -> Iterator[tuple[str, str]]:
    config, train = result.config, result.config.train
    yield "model", f"{config.method}, {config.encoder} on {result.device} in {train.precision}"
    yield "images", f"{result.images} readable, {len(result.unreadable)} unreadable"
    for entry in islice(result.unreadable, NAMED_UNREADABLE):
        yield "", f"unreadable: {entry.name}: {entry.reason}"
    yield "steps", f"{result.steps} of {result.images_per_step} images"
    yield (
        "speed",
        f"{result.images_per_second:.3g} images/s, mean of {result.measured_steps} "
        f"{'step' if result.measured_steps == 1 else 'steps'} with loading",
    )
    yield "time", f"{result.seconds / 3600:.3g} hours ({result.seconds:.0f} s) of steps"
    yield "memory", result.memory.sentence(train.micro_batch)
    yield (
        "disk",
        f"{result.disk_bytes / 1e9:.2g} GB at most, of them {result.checkpoint_bytes / 1e9:.2g} GB for each "
        f"checkpoint; {_free_bytes(run_dir) / 1e9:.3g} GB free",
    )


def _free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that a folder lies on or would lie on."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
