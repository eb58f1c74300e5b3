"""Features of the frozen encoder of a run: computed before the first step, in the first process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gtsa_kit.config.finetune import FinetuneConfig, resolved
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.tasks.frozen import FrozenFeatures, open_features
from gtsa_kit.tasks.state import FinetuneCallback
from gtsa_kit.tasks.task_data import TaskData, training_images, validation_images
from gtsa_kit.training.fabric import Fabric

FULL_COST = 3
"""Time of a training step of an encoder, as a multiple of the time to encode its images."""


class StoppedError(Exception):
    """Raised when the callback stops a run before its first step; the features so far are kept."""


def frozen_features(
    config: FinetuneConfig,
    run_dir: Path,
    data: TaskData,
    fabric: Fabric,
    model: TaskModel,
    callback: FinetuneCallback,
    notices: list[str],
    encoded_images: int | None = None,
) -> tuple[FrozenFeatures, FrozenFeatures]:
    """Compute the features of training and validation images in the first process; the others wait for it.

    Those of validation images are computed in float32, so that their scores are those of the saved model.
    `encoded_images` limits the number of images of either part.

    Raises:
        ValueError: The disk has no space for them.
        StoppedError: The callback stopped the run meanwhile.
    """
    train = config.train
    root = Path(train.features) if train.features else run_dir / "features"
    settings = model, data
    parts = (
        open_features(
            *settings, training_images(data)[:encoded_images], train.views, train.seed, train.precision, root
        ),
        open_features(*settings, validation_images(data)[:encoded_images], 1, train.seed, "fp32", root),
    )
    stopped = False
    if fabric.is_global_zero:
        for part, autocast, name in zip(parts, (fabric.autocast, None), ("training", "validation"), strict=True):
            report = _progress(config, part, f"features for {name}", callback, notices if autocast else None)
            arguments: dict[str, Any] = {"autocast": autocast} if autocast else {}
            stopped = stopped or not part.compute(**arguments, on_progress=report, should_stop=callback.should_stop)
    if fabric.broadcast(stopped):
        raise StoppedError
    return parts


def _progress(
    config: FinetuneConfig, part: FrozenFeatures, stage: str, callback: FinetuneCallback, notices: list[str] | None
) -> Callable[[int, int, float], None]:
    """Return the callback of `FrozenFeatures.compute`; at first it says how long all layers would take to train."""
    reported = False

    def report(done: int, total: int, seconds: float) -> None:
        nonlocal reported
        if notices is not None and not reported:
            reported = True
            notices.append(_estimate(config, len({item.image for item in part.items}), seconds))
            callback.on_notice(notices[-1])
        callback.on_progress(stage, done, total)

    return report


def _estimate(config: FinetuneConfig, images: int, seconds: float) -> str:
    """Return a sentence about the time of training all layers for as many epochs, from that of encoding an image."""
    train = config.train
    images_of_run = resolved(train.steps) * resolved(train.batch_size) * train.accumulate
    hours = FULL_COST * seconds * images_of_run / 3600
    minutes = max(1, round(60 * hours))
    length = f"{hours:.1f} hours" if hours >= 1 else f"{minutes} minute{'s' * (minutes > 1)}"
    return (
        f"the encoder stays as it is (--freeze): its features of {images} images are computed once; training all "
        f"layers for as many steps (--no-freeze) would take about {length} on this machine"
    )
