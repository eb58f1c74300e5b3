"""Output of `gtsa finetune --dry-run`. This module imports torch, so the command imports it only when it runs."""

from collections.abc import Iterator
from pathlib import Path

from gtsa_kit.cli.support.common import is_first_process
from gtsa_kit.cli.support.estimate_rows import disk, hours, print_estimate, speed_rows
from gtsa_kit.cli.support.finetune_display import finetune_display
from gtsa_kit.config.finetune import FinetuneConfig
from gtsa_kit.tasks.dry_run import FinetuneEstimate, dry_run


def estimate_finetuning(config: FinetuneConfig, run_dir: Path) -> bool:
    """Print how long a fine-tuning run would take and what it needs; return False if it was stopped."""
    with finetune_display() as display:
        result = dry_run(config, display)
    if result and is_first_process():
        print_estimate(finetune_rows(result, run_dir))
    return result is not None


def finetune_rows(result: FinetuneEstimate, run_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield the names and values of the estimate of a fine-tuning run."""
    config, frozen = result.config, result.feature_seconds > 0
    model = f"{config.task}: {result.model}{', frozen' if frozen else ''}, head {config.head.name}"
    yield "model", f"{model} on {result.device} in {config.train.precision}"
    yield "classes", str(result.classes)
    unused = f", {result.skipped} files not used" if result.skipped else ""
    yield "images", f"{result.images} for training, {result.validation_images} for validation{unused}"
    yield from speed_rows(result)
    features = f"{hours(result.feature_seconds)} of features and " if frozen else ""
    yield "time", f"{features}{hours(result.step_seconds)} of steps"
    yield (
        "memory",
        f"{result.peak_bytes / 1e9:.2g} GB at most in these steps, with {config.train.batch_size} images in a "
        f"micro-step; {result.available_bytes / 1e9:.3g} GB were left",
    )
    yield "disk", disk(result.disk_bytes, result.checkpoint_bytes, run_dir)
