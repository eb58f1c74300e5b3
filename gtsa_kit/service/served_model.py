"""Model of a service: an encoder with any number of heads, or a task model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gtsa_kit.export import Runner
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.runtime.batching import run_in_batches, select
from gtsa_kit.hardware import compute_threads
from gtsa_kit.models.outputs import Features, TaskOutput
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.tasks.heads import Head
from gtsa_kit.tasks.predictor import BATCH_BYTES, Predictor, split_outputs

GPU_BATCH = 32
"""Images of a batch by default on a GPU, and at most on a CPU."""


@dataclass(frozen=True)
class ModelOutput:
    """Outputs of the model for one image, without the batch axis."""

    features: Features | None
    """Features; None for a task model."""
    predictions: Mapping[str, TaskOutput] = field(default_factory=dict)
    """Outputs of the requested heads by name."""


class ServedModel:
    """Encoder that runs once for each image, with heads on its features; or a task model, which has one head."""

    def __init__(self, model: Runner | Predictor, heads: Sequence[Head] = ()) -> None:
        """Serve an opened model; only an encoder takes heads."""
        self.model = model
        self._heads = {head.name: head for head in heads}
        self.heads: Mapping[str, Head | Predictor] = self._heads
        if isinstance(model, Predictor):
            self.heads = {model.task: model}

    @property
    def manifest(self) -> Manifest:
        """Manifest of the encoder, or of the task model."""
        return self.model.manifest

    @property
    def provider(self) -> str:
        """Runtime and device that compute, for display."""
        return self.model.runner.provider if isinstance(self.model, Predictor) else self.model.provider

    @property
    def default_batch(self) -> int:
        """Images of a batch that use the device, and leave others to be decoded meanwhile: two for each CPU thread.

        On two cores, batches of 4 answer a fifth more requests of eight clients than batches of 8, because with those
        all clients wait for one batch, and the model for all clients.
        """
        on_cpu = re.search(r"\bon cpu\b|CPUExecutionProvider", self.provider, re.IGNORECASE)
        return min(max(4, 2 * compute_threads()), GPU_BATCH) if on_cpu else GPU_BATCH

    @property
    def has_features(self) -> bool:
        """True if the model returns features."""
        return not isinstance(self.model, Predictor)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the model's inputs."""
        return Preprocessing.from_dict(self.manifest.preprocessing)

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the allowed (height, width) nearest to a size of multiples of the patch size."""
        return self.manifest.range_of("height").clamp(height), self.manifest.range_of("width").clamp(width)

    def batch_limit(self, pixels: int) -> int:
        """Return the number of inputs of this many pixels whose logits fit into `BATCH_BYTES`, at least one."""
        return self.model.batch_limit(pixels) if isinstance(self.model, Predictor) else BATCH_BYTES

    def __call__(self, images: np.ndarray, heads: Sequence[frozenset[str]] = ()) -> list[ModelOutput]:
        """Compute a batch of inputs of one shape, with the heads that each image wants by name."""
        if isinstance(self.model, Predictor):
            task: str = self.model.task
            return [ModelOutput(None, {task: output}) for output in split_outputs(self.model(images))]
        features = run_in_batches(self.model, images)
        predictions: list[dict[str, TaskOutput]] = [{} for _ in images]
        for name, head in self._heads.items():
            rows = [i for i, names in enumerate(heads) if name in names]
            if not rows:
                continue
            chosen = features if len(rows) == len(images) else _take(features, rows)
            for i, logits in zip(rows, head(chosen), strict=True):
                predictions[i][name] = TaskOutput(logits, None)
        return [ModelOutput(select(features, i), predictions[i]) for i in range(len(images))]


def _take(features: Features, rows: list[int]) -> Features:
    layers = {layer: values[rows] for layer, values in features.layers.items()}
    return Features(features.embedding[rows], features.feature_map[rows], layers)
