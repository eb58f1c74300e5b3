"""What every opened artifact offers: `runner(images) -> Features` on numpy arrays, and its own account of itself."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from PIL import Image

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP, layer_output
from gtsa_kit.models.encoder import Features, Preprocessing


class Runner(ABC):
    """An opened artifact. Calls are independent of each other and may come from several threads."""

    manifest: Manifest
    provider: str
    """What computes, in words for people."""

    def __call__(self, images: np.ndarray) -> Features:
        """Features of a batch.

        Args:
            images: As the manifest's input says: (B, 3, H, W) float32, preprocessed; or (B, H, W, 3) uint8, RGB, of an
                artifact that normalizes by itself. `prepare` makes one from an image.

        Returns:
            numpy float32: embedding (B, D), feature_map (B, D, H/16, W/16), and `layers` of that shape by block.

        Raises:
            ValueError: A wrong type, shape or range; the message says what is allowed.
        """
        self._check(images)
        found = dict(zip((spec.name for spec in self.manifest.outputs), self._run(images), strict=True))
        layers = {layer: found[layer_output(layer)] for layer in self.manifest.layers}
        return Features(found[EMBEDDING], found[FEATURE_MAP], layers)

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become inputs of this artifact."""
        return Preprocessing.from_dict(self.manifest.preprocessing)

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
        """One upright RGB image as an element of a batch.

        Args:
            image: Of any size; it is resized.
            size: (height, width); by default the manifest's, or what the artifact takes that is nearest to it.
        """
        base = self.preprocessing.size
        size = size or self.nearest_size(base, base)
        if self.manifest.inputs[0].dtype == "uint8":
            return self.preprocessing.resized(image, size)
        return self.preprocessing(image, size)

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        """What the artifact takes that is nearest to multiples of the patch."""
        return self.manifest.range_of("height").clamp(height), self.manifest.range_of("width").clamp(width)

    def _check(self, images: np.ndarray) -> None:
        spec = self.manifest.inputs[0]
        if not isinstance(images, np.ndarray) or images.dtype != spec.dtype:
            got = getattr(images, "dtype", type(images))
            raise ValueError(f"images must be a numpy array of {spec.dtype}, got {got}")
        self._check_shape(images.shape)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        names = tuple(str(d) for d in self.manifest.input_layout)
        if len(shape) != 4 or shape[names.index("3")] != 3 or shape[0] == 0:
            raise ValueError(f"images must be ({', '.join(names)}) with at least one, got {shape}")
        for name, value in zip(names, shape, strict=True):
            if name != "3":
                self.manifest.check_axis(name, value)

    @abstractmethod
    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """The manifest's outputs, in its order."""
