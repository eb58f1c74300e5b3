"""Tokens of two feature maps: their cosines, and where they lie."""

import numpy as np
import torch


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) of the tokens of two maps (D, h, w), row by row; of a token that is all zeros, 0."""
    first, second = (tokens / np.maximum(np.linalg.norm(tokens, axis=0), 1e-12) for tokens in map(_flat, (a, b)))
    similarity: np.ndarray = first.T @ second
    return similarity


def cell_centers(height: int, width: int) -> torch.Tensor:
    """(h * w, 2) float64, x and y in the unit square, row by row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centers = torch.stack([columns, rows], -1).reshape(-1, 2).double() + 0.5
    return centers / torch.tensor([width, height], dtype=torch.float64)


def patch_distance(a: np.ndarray, b: np.ndarray, height: int, width: int) -> np.ndarray:
    """(...,) distance of (..., 2) points of the unit square, in cells of a map: the larger of across and down.

    By it, half a patch is the very cell that a point lies in, and one patch reaches no further than the next.
    """
    apart: np.ndarray = np.abs((a - b) * np.array([width, height])).max(axis=-1)
    return apart


def _flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(len(features), -1)
