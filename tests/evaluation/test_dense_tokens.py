"""Patch tokens and the class shares of patches."""

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import write_blocks
from PIL import Image

from gtsa_kit.data.label_map import VOID
from gtsa_kit.data.labeled_masks import read_segmentation_dataset
from gtsa_kit.evaluation.dense_tokens import InputOptions, compute_patch_tokens, patch_class_shares
from gtsa_kit.evaluation.models import open_models
from gtsa_kit.progress import no_progress


@pytest.mark.parametrize(("size", "grid"), [((32, 48), (2, 3)), ((30, 41), (3, 4)), ((3, 3), (5, 2))])
def test_class_shares_against_a_slow_loop(size: tuple[int, int], grid: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 3, size).astype(np.uint8)
    labels[labels == 2] = VOID
    slow, pixels = np.zeros((*grid, 2)), np.zeros(grid)
    for y in range(size[0]):
        for x in range(size[1]):
            patch = math.floor((y + 0.5) * grid[0] / size[0]), math.floor((x + 0.5) * grid[1] / size[1])
            pixels[patch] += 1
            if labels[y, x] != VOID:
                slow[(*patch, labels[y, x])] += 1
    expected = slow / np.maximum(pixels, 1)[..., None]
    np.testing.assert_allclose(patch_class_shares(labels, grid, 2).reshape(*grid, 2), expected, rtol=1e-6)


def test_tokens_are_those_of_the_model_and_many_are_in_a_file(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, runner = read_segmentation_dataset(write_blocks(tmp_path)), open_models([tiny_run], device="cpu")[0].runner
    monkeypatch.setattr("gtsa_kit.evaluation.dense_tokens.MAX_MEMORY_BYTES", 10)
    with compute_patch_tokens(runner, data, InputOptions(96), no_progress, "") as tokens:
        assert isinstance(tokens.features, np.memmap)
        image = Image.open(data.pairs[3].image).convert("RGB")
        own = runner(runner.prepare(image, (64, 96))[None]).feature_map[0]
        (span,) = tokens.spans[3]
        np.testing.assert_allclose(tokens.features[span.rows], own.reshape(len(own), -1).T, atol=1e-4)
        labels = data.labels(data.pairs[3])[8::16, 8::16].ravel()
        np.testing.assert_array_equal(tokens.class_shares[span.rows], np.eye(3, dtype=np.float32)[labels])
