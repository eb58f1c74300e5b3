"""State of a fine-tuning run while it trains, its rows of metrics.jsonl, and the callback that displays it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from gtsa_kit.config.finetune import FinetuneConfig, resolved
from gtsa_kit.data.mixing import BatchMixer
from gtsa_kit.methods.base import PlotGroup
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.tasks.frozen import FrozenFeatures
from gtsa_kit.tasks.scoring import main_score
from gtsa_kit.tasks.task_data import TaskData
from gtsa_kit.training.fabric import Fabric

SCORE_NAMES = {
    "miou": "mIoU",
    "aacc": "aAcc",
    "macc": "mAcc",
    "top1": "top-1",
    "top5": "top-5",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "mask_ap75": "mask AP75",
}
"""Names of scores, in percent, by key."""
DETECTOR_SCORES = PlotGroup("validation, %", ("ap", "ap50", "mask_ap", "mask_ap50"), limits=(0, None), sparse=True)
PLOTS = {
    "segment": (PlotGroup("validation, %", ("miou", "aacc", "macc"), limits=(0, 100), sparse=True),),
    "classify": (PlotGroup("validation, %", ("top1", "top5"), limits=(0, 100), sparse=True),),
    "detect": (
        DETECTOR_SCORES,
        PlotGroup("losses of boxes and masks", ("loss_classifier", "loss_box_reg", "loss_mask"), limits=(0, None)),
        PlotGroup("losses of proposals", ("loss_objectness", "loss_rpn_box_reg"), limits=(0, None)),
    ),
}
"""Plots of the curves of each task."""
QUERY_PLOTS = (
    DETECTOR_SCORES,
    PlotGroup("losses of queries", ("loss_cross_entropy", "loss_mask", "loss_dice"), limits=(0, None)),
)
"""Plots of the curves of detectors with the head eomt."""
COMMON_PLOTS = (
    PlotGroup("learning rate", ("lr",), limits=(0, None)),
    PlotGroup("images per second", ("images_per_second",), limits=(0, None)),
)
"""Plots of the curves of all tasks."""


@dataclass(frozen=True)
class FinetuneMetrics:
    """Metrics of one step of fine-tuning."""

    step: int
    """Number of the step, counted from 1."""
    epoch: float
    """Number of finished epochs, with fractions."""
    loss: float
    lr: float
    """Learning rate of the head."""
    images_per_second: float
    data_wait: float
    """Fraction of the time since the last row that was spent waiting for images, 0 to 1."""
    seconds: float
    """Seconds since the run was started or resumed."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores on the validation images in percent, in rows of steps that measure them."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Parts of the loss by name, where it has several."""

    def row(self) -> dict[str, Any]:
        """Return all values by column name; each score that is defined is a column of its own."""
        row = {name: value for name, value in vars(self).items() if name not in ("scores", "losses")}
        row |= self.losses
        return row | {name: value for name, value in self.scores.items() if not math.isnan(value)}

    def line(self) -> str:
        """Return the row as text."""
        scores = "".join(f"{SCORE_NAMES[name]} {value:.2f}  " for name, value in self.scores.items())
        return (
            f"step {self.step}  epoch {self.epoch:.2f}  loss {self.loss:.4f}  {scores}lr {self.lr:.2e}  "
            f"{self.images_per_second:.2f} images/s  data wait {self.data_wait:.0%}"
        )


class FinetuneCallback:
    """Callback of a fine-tuning run; the command overrides what it displays."""

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` items of a stage before or beside training are finished."""

    def on_notice(self, message: str) -> None:
        """Report a sentence about the run; train.log holds it too."""

    def on_data(self, data: TaskData) -> None:
        """Report the labeled images, before the first step."""

    def on_train_start(self, state: "FinetuneState") -> None:
        """Report that the loop starts."""

    def on_step_end(self, step: int, metrics: FinetuneMetrics | None) -> None:
        """Report that `step` steps are finished; `metrics` is None unless the step was logged."""

    def should_stop(self) -> bool:
        """Return whether to save a checkpoint and stop after this step."""
        return False


@dataclass
class FinetuneState:
    """State of one run: inputs of the loop, and the model, optimizer and step that it updates."""

    config: FinetuneConfig
    """Settings without auto."""
    run_dir: Path
    data: TaskData
    data_digest: str
    fabric: Fabric
    model: TaskModel
    trained: nn.Module
    """Module whose weights are trained: the model, or its head alone."""
    wrapped: Any
    """The same module wrapped by Fabric for device, precision and gradient exchange."""
    optimizer: Any
    lr: np.ndarray
    """Learning rate of each step, (steps,)."""
    batches: Any
    """Micro-batches of this process from `step` to the end: inputs and labels."""
    mixer: BatchMixer | None
    """Mixing of images with a class, while the encoder is trained."""
    class_weights: Tensor | None
    val_features: FrozenFeatures | None
    """Features of the validation images, if the encoder is frozen."""
    start_digest: str
    """SHA-256 of the encoder's weights at the start, "" for random ones."""
    query_criterion: Any = None
    """Loss of the head eomt; None for other heads."""
    step: int = 0
    """Number of finished steps."""
    best: dict[str, Any] | None = None
    """Step and scores of the best model so far."""
    extensions: tuple[tuple[int, int, int], ...] = ()
    """Finished steps, length before and length after, of every time that the run was extended."""

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return len(self.lr)

    @property
    def batch(self) -> int:
        """Images per step over all processes."""
        train = self.config.train
        return resolved(train.batch_size) * train.accumulate * self.fabric.world_size

    @property
    def images(self) -> int:
        """Number of training images."""
        return int((~self.data.validation).sum())

    @property
    def main_score(self) -> str:
        """Key of the score by which the best model is chosen."""
        return main_score(self.model.spec)

    def checkpoint_content(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        return {
            **EncoderSpec.of(self.model.encoder).to_dict(),
            "task": self.model.spec.to_dict(),
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "settings": self.config.model_dump(mode="json"),
            "data": self.data_digest,
            "batch": self.batch,
            "steps": self.steps,
            "extensions": [list(extension) for extension in self.extensions],
            "best": self.best,
        }
