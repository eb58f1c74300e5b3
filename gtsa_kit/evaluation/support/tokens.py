"""Geometry and similarity of the patch tokens of feature maps."""

import numpy as np
import torch


def cosine_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (n, m) cosines of the tokens of two maps (D, h, w), in row-major order; 0 for an all-zero token."""
    first, second = (tokens / np.maximum(np.linalg.norm(tokens, axis=0), 1e-12) for tokens in map(_flatten, (a, b)))
    similarity: np.ndarray = first.T @ second
    return similarity


def patch_centers(height: int, width: int) -> torch.Tensor:
    """Return the (h * w, 2) float64 centers (x, y) of the patches in the unit square, row by row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centers = torch.stack([columns, rows], -1).reshape(-1, 2).double() + 0.5
    return centers / torch.tensor([width, height], dtype=torch.float64)


def patch_distance(a: np.ndarray, b: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the (...,) Chebyshev distances, in patches of an (h, w) grid, of (..., 2) points of the unit square.

    A distance up to 0.5 from a patch center means the point lies in that patch.
    """
    distance: np.ndarray = np.abs((a - b) * np.array([width, height])).max(axis=-1)
    return distance


def _flatten(features: np.ndarray) -> np.ndarray:
    return features.reshape(len(features), -1)
