"""Fine-tuning runs that are resumed: the same images and steps as before, or more steps."""

from typing import Any

import numpy as np

from gtsa_kit.config.finetune import FinetuneConfig, resolved
from gtsa_kit.tasks.auto import count_steps
from gtsa_kit.tasks.build import learning_rates
from gtsa_kit.tasks.task_data import TaskData, data_digest

Extensions = tuple[tuple[int, int, int], ...]
"""Finished steps, length before and length after, of every time that a run was extended."""


def resumed_config(config: FinetuneConfig, data: TaskData, world: int) -> FinetuneConfig:
    """Return the settings of a resumed run with its number of steps, where only epochs are given."""
    if config.train.steps != "auto":
        return config
    assert config.train.epochs is not None, "saved settings have steps"
    images = int((~data.validation).sum())
    per_step = resolved(config.train.batch_size) * config.train.accumulate * world
    steps = count_steps(config.train.epochs, images, per_step)
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})


def check_kind(checkpoint: dict[str, Any]) -> None:
    """Raise `ValueError` if a checkpoint is none of fine-tuning."""
    if not {"trained", "task", "data", "batch", "extensions"} <= checkpoint.keys():
        raise ValueError("the folder holds a run of gtsa train; resume it with: gtsa train --resume, or choose --out")


def check_data(checkpoint: dict[str, Any], config: FinetuneConfig, data: TaskData) -> None:
    """Raise `ValueError` if a checkpoint is of other labeled images."""
    if checkpoint["data"] != data_digest(data):
        raise ValueError(
            f"the labeled images in {config.data.source} are not those that the run began with (names, sizes, split "
            "or classes); restore them, or start a new run with another --out"
        )


def check_length(
    checkpoint: dict[str, Any], config: FinetuneConfig, images: int, batch: int
) -> tuple[Extensions, tuple[str, ...]]:
    """Compare the length of a checkpoint's run with that of the settings.

    Args:
        checkpoint: Content of the checkpoint.
        config: Settings.
        images: Number of training images.
        batch: Images per step over all processes.

    Returns:
        The extensions of the run, with that to more steps; and a sentence about it, if it is extended now.

    Raises:
        ValueError: The run has other images a step, or more steps.
    """
    steps, before = resolved(config.train.steps), checkpoint["steps"]
    if batch != checkpoint["batch"]:
        raise ValueError(
            f"the run has steps of {checkpoint['batch']} images, now {batch}; keep their number to resume it, or "
            "choose another --out"
        )
    if steps < before:
        raise ValueError(
            f"the run to resume has {before} steps, these settings give {steps}; give more to extend it, or end it at "
            "its last checkpoint with --finish"
        )
    extensions: Extensions = tuple((step, old, new) for step, old, new in checkpoint["extensions"])
    if steps == before:
        return extensions, ()
    done = checkpoint["step"]
    old = learning_rates(_with_steps(config, before), batch, images)
    sentence = _sentence(done, before, steps, old, learning_rates(config, batch, images))
    return (*extensions, (done, before, steps)), (sentence,)


def _with_steps(config: FinetuneConfig, steps: int) -> FinetuneConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})


def _sentence(done: int, before: int, after: int, old: np.ndarray, new: np.ndarray) -> str:
    """Return the sentence on the schedule of an extended run, as pretraining says it."""
    rates = f"learning rate {old[min(done, before - 1)]:.4g} to {new[done]:.4g}"
    return f"extended from {before} to {after} steps: from step {done} on the schedule is that of {after} ({rates})"
