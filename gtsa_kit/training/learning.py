"""Verdict on what a run has learned: its loss against a constant student, and the movement of its encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from gtsa_kit.config import RunConfig
from gtsa_kit.methods import COMPARED_COLUMNS
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.training.fixed_images import encode
from gtsa_kit.training.start import initial_encoder

MAX_ROWS = 20
"""Largest number of the last rows of metrics.jsonl whose losses are averaged; in a short run, a quarter of its rows."""
MAX_COSINE_TO_START = 0.95
"""Mean cosine between patch tokens and those of random initial weights above which an encoder counts as unmoved."""
MAX_COSINE_TO_TRAINED = 0.9995
"""The same for trained initial weights, which a short training at a low rate changes little."""

MIN_GAP = 0.005
"""Smallest difference between baseline and loss (cosine or nats) that counts as learning, however certain a smaller one
is. DINO with uniform outputs ended 0.0005 below its baseline in the study (docs/study.md), runs that learned 0.06."""


@dataclass(frozen=True)
class Learning:
    """Loss and movement at the end of a run."""

    column: str
    """Column of the loss in metrics.jsonl."""
    loss: float
    """Mean over the last rows."""
    baseline: float
    """Mean loss of a student with the same output for all images, over the same rows."""
    margin: float
    """Two standard errors of the mean difference between loss and baseline; 0 for one row."""
    rows: int
    """Number of rows."""
    cosine: float | None
    """Mean cosine between the exported encoder's patch tokens and those of the initial weights; None without images."""
    trained_start: bool = False
    """True if the run started from trained weights, False for random ones."""

    @property
    def below(self) -> bool:
        """True if the loss is below the baseline by more than chance, and by more than next to nothing."""
        return self.loss + max(self.margin, MIN_GAP) < self.baseline

    @property
    def constant(self) -> bool:
        """True if the loss is certainly below the baseline, but by next to nothing: all outputs are nearly the same."""
        return self.loss + self.margin < self.baseline and not self.below

    @property
    def moved(self) -> bool:
        """True if the exported encoder has moved from its initial weights."""
        limit = MAX_COSINE_TO_TRAINED if self.trained_start else MAX_COSINE_TO_START
        return self.cosine is None or self.cosine <= limit

    @property
    def learned(self) -> bool:
        """True if the loss is below its baseline and the exported encoder has moved."""
        return self.below and self.moved

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the verdict, for encoder.json."""
        return asdict(self) | {"learned": self.learned}

    def sentence(self) -> str:
        """Return the verdict in one line, with its numbers."""
        name = "region loss" if self.column == "region" else "loss"
        relation = "below" if self.below else "not below"
        if self.constant:
            relation = f"only {self.baseline - self.loss:.4f} below"
        text = f"the {name} of the last {self.rows} rows, {self.loss:.3f}, is {relation} its constant baseline"
        text += f" of {self.baseline:.3f}"
        if self.cosine is not None:
            start = f"{self.cosine:.4f} to those of the weights it started from"
            start = start if self.trained_start else f"{self.cosine:.3f} to those of random weights"
            text += f"; the encoder's patch tokens have a mean cosine of {start}"
        if self.learned:
            return f"learned: {text}"
        if self.trained_start and self.cosine is not None and self.moved:
            return f"moved: {text} (whether the features are better, labels show: --probe, or gtsa eval knn)"
        hint = "the teacher has not moved yet" if self.below else "give more --steps with --resume, or more images"
        if self.constant:
            hint = "all images get nearly the same output; try a lower optim.lr, larger batches or another train.seed"
        return f"nothing learned yet: {text} ({hint})"


def measure_learning(
    config: RunConfig, rows: Sequence[Mapping[str, Any]], encoder: Encoder, pixels: Tensor, run_dir: Path
) -> Learning | None:
    """Measure what a run has learned; None if it has no rows.

    Args:
        config: Settings of the run.
        rows: Rows of metrics.jsonl.
        encoder: Encoder that the run hands on.
        pixels: Images (N, 3, S, S) uint8.
        run_dir: Run folder, with the weights that the run started from unless they were random.
    """
    if not rows:
        return None
    column, baseline = COMPARED_COLUMNS[config.method]
    last = rows[-min(MAX_ROWS, max(1, len(rows) // 4)) :]
    differences = np.array([row[column] - row[baseline] for row in last])
    margin = 2 * differences.std(ddof=1) / len(last) ** 0.5 if len(last) > 1 else 0.0
    losses, baselines = (float(np.mean([row[name] for row in last])) for name in (column, baseline))
    initial = initial_encoder(config, run_dir, EncoderSpec.of(encoder)) if len(pixels) else None
    cosine = mean_cosine(encoder, initial, pixels) if initial else None
    trained = bool(config.init.weights)
    return Learning(column, losses, baselines, float(margin), len(last), cosine, trained)


def mean_cosine(encoder: Encoder, other: Encoder, pixels: Tensor) -> float:
    """Return the mean cosine between the patch tokens of two encoders."""
    maps = encode(encoder, pixels).feature_map, encode(other, pixels).feature_map
    return float(F.cosine_similarity(*maps, dim=1).mean())
