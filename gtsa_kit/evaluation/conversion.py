"""Effect of a conversion to another patch size on features: exact part, patches of real images, and a k-NN probe."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.data.labeled import ClassificationDataset
from gtsa_kit.evaluation.image_probes import ProbeOptions, knn
from gtsa_kit.evaluation.models import Model, encoder_runner
from gtsa_kit.export.tolerances import MAX_FOLD_DIFFERENCE
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.patch_conversion import BASE_SIDE, fold_layer_scale, without_layer_scale
from gtsa_kit.models.preprocessing import InputImage

BATCH: Final = 4
"""Number of images that are encoded at once."""


@dataclass(frozen=True)
class GridComparison:
    """Cosines of the patch tokens of two encoders on images of the same grid."""

    grid: int
    """Rows and columns of patches."""
    sides: tuple[int, int]
    """Side of the images in pixels, before and after the conversion."""
    mean_cosine: float
    min_cosine: float


@dataclass(frozen=True)
class ConversionReport:
    """Differences of the features before and after a conversion."""

    patch: tuple[int, int]
    """Side of a patch in pixels, before and after."""
    fold_difference: float | None
    """Largest difference that folding LayerScale makes, relative to the largest feature; None without LayerScale."""
    images: int
    """Number of images that were compared."""
    grids: tuple[GridComparison, ...]
    """Patch tokens on equal grids: that of the new positions, and that of images of 224 pixels before."""
    knn: tuple[float, float] | None = None
    """Top-1 accuracy of k-NN in percent before and after, at 224 pixels; None without labeled images."""

    @property
    def passed(self) -> bool:
        """True if folding LayerScale changed no feature."""
        return self.fold_difference is None or self.fold_difference <= MAX_FOLD_DIFFERENCE

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return asdict(self)


def compare_conversion(
    before: Encoder, after: Encoder, images: Sequence[InputImage], probe: ClassificationDataset | None = None
) -> ConversionReport:
    """Compare an encoder with its conversion to another patch size.

    Args:
        before: The encoder.
        after: Its conversion by `to_patch`.
        images: Upright RGB images.
        probe: Labeled images for the k-NN probe.

    Raises:
        ValueError: There are no images, or none of the probe's can be read.
    """
    if not images:
        raise ValueError("no images to compare the patches on; name a folder of images")
    old, new = before.architecture.patch, after.architecture.patch
    grids = tuple(
        _compare_grid(before, after, images, grid) for grid in dict.fromkeys((BASE_SIDE // new, BASE_SIDE // old))
    )
    report = ConversionReport((old, new), _fold_difference(before, images), len(images), grids)
    return report if probe is None else replace(report, knn=_probe(before, after, probe))


def _fold_difference(encoder: Encoder, images: Sequence[InputImage]) -> float | None:
    weights = encoder.vit.state_dict()
    folded = fold_layer_scale(weights)
    if folded.keys() == weights.keys():
        return None
    plain = Encoder(without_layer_scale(encoder.architecture), preprocessing=encoder.preprocessing).eval()
    plain.vit.load_state_dict(folded, strict=True)
    side = BASE_SIDE // encoder.architecture.patch * encoder.architecture.patch
    expected, actual = (_tokens(one, images, side) for one in (encoder, plain))
    return float((actual - expected).abs().max() / expected.abs().max())


def _compare_grid(before: Encoder, after: Encoder, images: Sequence[InputImage], grid: int) -> GridComparison:
    old, new = (grid * encoder.architecture.patch for encoder in (before, after))
    cosines = torch.cosine_similarity(_tokens(before, images, old), _tokens(after, images, new), dim=1)
    return GridComparison(grid, (old, new), float(cosines.mean()), float(cosines.min()))


def _tokens(encoder: Encoder, images: Sequence[InputImage], side: int) -> Tensor:
    """Return the patch tokens (N, D, h, w) of images stretched to a square."""
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    with torch.inference_mode():
        maps = [
            encoder(torch.from_numpy(np.stack([encoder.preprocessing(image, (side, side)) for image in batch])))
            for batch in batches
        ]
    return torch.cat([features.feature_map for features in maps])


def _probe(before: Encoder, after: Encoder, probe: ClassificationDataset) -> tuple[float, float]:
    """Return the accuracy in percent before and after, with the first seed where the dataset has no split."""
    models = [
        Model(name, encoder_runner(encoder, name), None) for name, encoder in (("before", before), ("after", after))
    ]
    report = knn(models, probe, ProbeOptions(seeds=1, size=BASE_SIDE))
    top1 = [float(row["top1"]) for row in report.rows]
    return top1[0], top1[1]
