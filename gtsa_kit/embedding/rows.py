"""Results of feature extraction: the features of one image, or the reason why it has none."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gtsa_kit.export.spec import CLASS_TOKEN, EMBEDDING


@dataclass(frozen=True)
class FeatureRow:
    """Features of one image."""

    path: str
    """Path of the image, relative to its source."""
    sha256: str
    """Digest of the file."""
    stamp: str
    """Size and modification time of the file, or another mark that changes with it; "" if unknown."""
    width: int
    """Width of the upright image in pixels."""
    height: int
    """Height of the upright image in pixels."""
    embedding: np.ndarray
    """Embedding (D,)."""
    grid_to_pixel: np.ndarray
    """Affine (2, 3), float64, from the feature map to the stored image: see `gtsa_kit.feature_grid`."""
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Feature maps (D, h, w) by the name of the output; empty unless maps are requested."""
    class_token: np.ndarray | None = None
    """Class token (D,), if it is an output of the model."""

    @property
    def vectors(self) -> Mapping[str, np.ndarray]:
        """Vectors (D,) by the name of the output."""
        class_token = {} if self.class_token is None else {CLASS_TOKEN: self.class_token}
        return {EMBEDDING: self.embedding, **class_token}

    @property
    def patches(self) -> int:
        """Patches of one feature map; 0 without maps."""
        return int(np.prod(next(iter(self.maps.values())).shape[1:])) if self.maps else 0


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be read or decoded, or whose features are not finite."""

    path: str
    reason: str
    patches: int | None = None
    """Patches of its feature map if the model computed one; it then takes a place in its shard, as a row does."""
