"""Output of `gtsa train --dry-run`. This module imports torch, so the command imports it only when it runs."""

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from gtsa_kit.cli.support.common import is_first_process
from gtsa_kit.cli.support.estimate_rows import disk, hours, print_estimate, speed_rows
from gtsa_kit.cli.support.progress import make_console
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
        print_estimate(run_rows(result, run_dir))
    return result is not None


def run_rows(result: RunEstimate, run_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield the names and values of the estimate of a pretraining run."""
    config, train = result.config, result.config.train
    yield "model", f"{config.method}, {config.encoder} on {result.device} in {train.precision}"
    yield "images", f"{result.images} readable, {len(result.unreadable)} unreadable"
    for entry in islice(result.unreadable, NAMED_UNREADABLE):
        yield "", f"unreadable: {entry.name}: {entry.reason}"
    yield from speed_rows(result)
    yield "time", f"{hours(result.step_seconds)} of steps"
    yield "memory", result.memory.sentence(train.micro_batch)
    yield "disk", disk(result.disk_bytes, result.checkpoint_bytes, run_dir)
