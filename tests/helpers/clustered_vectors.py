"""Vectors for tests of search and duplicates."""

import numpy as np
import pytest

from gtsa_kit.embedding.browse import duplicates, vectors


def clustered_vectors(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return vectors of many norms in clusters, with exact and scaled copies, a zero row, NaN and infinity."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count // 8 + 1, dim))[rng.integers(0, count // 8 + 1, count)]
    rows = rows + rng.uniform(0, 0.4, (count, 1)) * rng.standard_normal((count, dim))
    rows[count // 2 :: 17] = rows[3]
    rows[count // 3 :: 41] = 2 * rows[5]
    scaled = (rows * rng.uniform(0.1, 30, (count, 1))).astype(np.float32)
    scaled[7], scaled[11, 0], scaled[13, 1] = 0, np.nan, np.inf
    return scaled


def use_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks, tiles and batches of pairs so small that a test's vectors take many of each."""
    monkeypatch.setattr(vectors, "BLOCK_BYTES", 4 * 16 * 37)
    monkeypatch.setattr(duplicates, "TILE", 23)
    monkeypatch.setattr(duplicates, "ROW_BLOCK_BYTES", 4 * 16 * 200)
    monkeypatch.setattr(duplicates, "PAIRS", 50)
