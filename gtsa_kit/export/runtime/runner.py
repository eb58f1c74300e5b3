"""Base class of runners: `runner(images)` computes `Features` or `TaskOutput` on numpy arrays."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from gtsa_kit.export.layout import CHANNELS, from_channels_last
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.spec import CLASS_TOKEN, EMBEDDING, FEATURE_MAP, layer_output
from gtsa_kit.models.outputs import Features, TaskOutput
from gtsa_kit.models.preprocessing import InputImage, Preprocessing


class Runner(ABC):
    """Opened artifact. Calls are independent of each other and may come from several threads."""

    manifest: Manifest
    provider: str
    """Runtime and device that compute, for display."""
    note: str = ""
    """Summary of imported weights of another tool: weights used, keys skipped, values assumed; else ""."""

    def __call__(self, images: np.ndarray) -> Any:
        """Compute the features of a batch, or the results of a task model.

        Args:
            images: Preprocessed float32, or samples for an artifact that normalizes inside its graph; (B, N, H, W) or
                (B, H, W, N). The manifest's input says which. `prepare` makes an element of the batch from an image.

        Returns:
            `Features` of an encoder, float32 arrays for patches of p x p pixels: `embedding` (B, D), `feature_map`
            (B, D, H/p, W/p), `layers` of that shape by block, and `class_token` (B, D) if it is an output.
            `TaskOutput` of a task model: `logits` (B, K, H, W) or (B, K) float32, or `mask` (B, H, W) uint8; of
            detections `boxes`, `scores`, `labels` and `masks`.

        Raises:
            ValueError: The dtype, the shape or a size is wrong; the message says what is allowed.
        """
        self._check(images)
        names, values = [spec.name for spec in self.manifest.outputs], self._run(images)
        if len(names) != len(values):
            raise ValueError(
                f"the file has {len(values)} outputs, its manifest names {len(names)}; copy both again, or export again"
            )
        outputs = dict(zip(names, values, strict=True))
        if self.manifest.kind == "task":
            return TaskOutput(**outputs)
        layers = {layer: outputs[layer_output(layer)] for layer in self.manifest.layers}
        return Features(outputs[EMBEDDING], outputs[FEATURE_MAP], layers, outputs.get(CLASS_TOKEN))

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing that turns images into inputs of this artifact."""
        return Preprocessing.from_dict(self.manifest.preprocessing)

    def prepare(self, image: InputImage, size: tuple[int, int] | None = None) -> np.ndarray:
        """Convert an upright RGB image, or samples (H, W, N) of other channels, to an element of a batch.

        Args:
            image: Image of any size; it is resized.
            size: (height, width) in pixels; by default the allowed size that is nearest to the preprocessing's.

        Raises:
            ValueError: The image has not the channels of the model, or the artifact does not take the size.
        """
        base = self.preprocessing.size
        size = self.preprocessing.checked(image, size or self.nearest_size(base, base))
        self.manifest.check_axis("height", size[0])
        self.manifest.check_axis("width", size[1])
        pixels, required = self.preprocessing.resized(image, size), self.manifest.input_format
        if required.normalizes:
            return required.of_samples(pixels)
        return from_channels_last(self.preprocessing.normalized(pixels), required.layout)

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the allowed (height, width) nearest to a size of multiples of the patch size."""
        return self.manifest.range_of("height").clamp(height), self.manifest.range_of("width").clamp(width)

    def _check(self, images: np.ndarray) -> None:
        spec = self.manifest.inputs[0]
        if not isinstance(images, np.ndarray) or images.dtype != spec.dtype:
            actual = getattr(images, "dtype", type(images))
            raise ValueError(f"images must be a numpy array of {spec.dtype}, got {actual}")
        self._check_shape(images.shape)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        names = self.manifest.input_axes
        if len(shape) != 4 or shape[names.index(CHANNELS)] != self.manifest.channels or shape[0] == 0:
            names = tuple(str(self.manifest.channels) if name == CHANNELS else name for name in names)
            raise ValueError(f"images must be ({', '.join(names)}) with a batch of at least 1, got {shape}")
        for name, value in zip(names, shape, strict=True):
            if name != CHANNELS:
                self.manifest.check_axis(name, value)

    @abstractmethod
    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Run a valid batch and return the manifest's outputs in their order."""
