"""Masks from logits against torch's own resize."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gtsa_kit.tasks import masks

SIZES = [((1, 1), (1, 1)), ((4, 6), (4, 6)), ((4, 6), (37, 5)), ((20, 31), (7, 200)), ((48, 64), (97, 64))]


@pytest.mark.parametrize(("grid", "size"), SIZES)
@pytest.mark.parametrize("band_bytes", [1, 9000, masks.BAND_BYTES])
def test_bands_equal_the_resize_of_torch(
    grid: tuple[int, int], size: tuple[int, int], band_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "BAND_BYTES", band_bytes)
    logits = np.random.default_rng(0).normal(size=(7, *grid)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=False)[0]
    bands = [(first, last, band.numpy()) for first, last, band in masks.resized_bands(logits, size)]
    assert [first for first, _, _ in bands] == [0, *(last for _, last, _ in bands[:-1])]
    np.testing.assert_allclose(np.concatenate([band for _, _, band in bands], axis=1), expected, atol=1e-5)
    best = expected.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-4).numpy()
    assert (masks.class_numbers(logits, size) == expected.argmax(0).numpy())[clear].all()
    assert clear.mean() > 0.98
    np.testing.assert_allclose(masks.class_probabilities(logits, size), expected.softmax(0), atol=1e-3)
