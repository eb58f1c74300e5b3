"""Feature maps as colors: their first three principal components, with colors kept over a run or a figure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ColorBasis:
    """Affine map from features to colors."""

    mean: np.ndarray
    """Mean of the features, (D,)."""
    components: np.ndarray
    """One direction for each of red, green and blue, (D, 3)."""
    low: np.ndarray
    """Score of color 0, (3,)."""
    high: np.ndarray
    """Score of color 1, (3,)."""
    explained: float
    """Fraction of the variance in the three principal components, 0 to 1."""

    def colors(self, feature_map: np.ndarray) -> np.ndarray:
        """Return the colors (h, w, 3), 0 to 1, of a (D, h, w) feature map."""
        scores = (_tokens(feature_map) - self.mean) @ self.components
        # A component without variance is gray.
        span = self.high - self.low
        scaled = np.where(span > 0, (scores - self.low) / np.where(span > 0, span, 1), 0.5)
        colors: np.ndarray = np.clip(scaled, 0, 1).reshape(*feature_map.shape[1:], 3)
        return colors


def fit_color_basis(maps: Sequence[np.ndarray], like: Sequence[np.ndarray] | None = None) -> ColorBasis:
    """Fit one basis to the (D, h, w) feature maps of some images, so that equal colors mean equal features among them.

    Each component is scaled to 0 to 1 between its 2% and its 98% quantile. Principal components are determined up to a
    rotation and signs, so two fits can show the same features in other colors. Two rules fix them. Without `like`, the
    entry of a component with the largest magnitude is positive. With `like`, the components are rotated so that the
    colors come as near as possible to those given (orthogonal Procrustes).

    For a run, keep the images, and pass the colors of the previous checkpoint:

        colors: list[np.ndarray] | None = None
        for maps in checkpoints:  # one (D, h, w) map for each image, in the same order
            basis = fit_color_basis(maps, like=colors)
            colors = [basis.colors(m) for m in maps]

    Colors that were read back from an image file (divided by 255) serve as well, after a resumption. For models in one
    figure, pass the colors of the first model; the patch grids may differ.

    Args:
        maps: Feature maps.
        like: Colors (h', w', 3) of the same images, 0 to 1.

    Raises:
        ValueError: A feature is not finite.
    """
    tokens = np.concatenate([_tokens(feature_map) for feature_map in maps])
    if not np.isfinite(tokens).all():
        raise ValueError("the feature maps hold NaN or infinity; check the model's precision and its weights")
    mean = tokens.mean(axis=0)
    centered = tokens - mean
    variances, vectors = np.linalg.eigh(centered.T @ centered)
    components = vectors[:, :-4:-1]
    components = components * np.sign(components[np.abs(components).argmax(axis=0), range(components.shape[1])])
    components = np.pad(components, ((0, 0), (0, 3 - components.shape[1])))  # fewer than three dimensions
    if like is not None:
        grids = [feature_map.shape[1:] for feature_map in maps]
        reference = np.concatenate([_resize(c, g).reshape(-1, 3) for c, g in zip(like, grids, strict=True)])
        components = _rotate_to(components, centered, reference)
    scores = centered @ components
    low, high = np.quantile(scores, [0.02, 0.98], axis=0)
    explained = float(variances[-3:].sum() / max(variances.sum(), 1e-300))
    return ColorBasis(mean, components, low, high, explained)


def _rotate_to(components: np.ndarray, centered: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rotate (D, 3) components of equal variance so that the scores of (N, D) tokens are nearest to (N, 3) colors."""
    scores = centered @ components
    scale = scores.std(axis=0)
    components = components / np.where(scale > 1e-9 * max(scale.max(), 1e-300), scale, np.inf)
    u, _, v = np.linalg.svd((centered @ components).T @ (reference - reference.mean(axis=0)))
    rotated: np.ndarray = components @ (u @ v)
    return rotated


def _resize(colors: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Return colors (h', w', 3) on another grid (h, w), each that of the nearest position."""
    rows, columns = (
        ((np.arange(length) + 0.5) * own / length).astype(int)
        for length, own in zip(grid, colors.shape[:2], strict=True)
    )
    resized: np.ndarray = colors[rows[:, None], columns]
    return resized


def _tokens(feature_map: np.ndarray) -> np.ndarray:
    """Return the (h * w, D) float64 tokens of a (D, h, w) map."""
    return feature_map.reshape(len(feature_map), -1).T.astype(np.float64)
