"""Run-length encoding against pycocotools."""

import numpy as np
import pytest

from gtsa_kit.tasks.rle import bounding_box, encode_rle

SHAPES = [(1, 1), (1, 9), (9, 1), (40, 3), (300, 200), (1200, 40)]


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    noise = [rng.random(shape) < share for shape in SHAPES for share in (0.0, 0.02, 0.5, 1.0)]
    block = np.zeros((300, 200), bool)
    block[10:290, 5:190] = True
    block[100:120, 50:90] = False
    return [*noise, block]


def test_counts_equal_those_that_pycocotools_wrote() -> None:
    """Values of pycocotools 2.0.10, so that the format is checked where it is not installed."""
    columns = "0001010 1001000 0100010 1111001 0001100".replace(" ", "")
    mask = np.array([int(c) for c in columns], bool).reshape(7, 5).T
    assert encode_rle(mask) == {"size": [5, 7], "counts": "3110001020O0N31M11O"}
    assert encode_rle(np.ones((1, 1), bool))["counts"] == "01"
    assert encode_rle(np.zeros((1, 1), bool))["counts"] == "1"
    assert encode_rle(masks()[-1])["counts"].startswith("V_1h8d000000")  # type: ignore[attr-defined]


def test_pycocotools_decodes_what_was_encoded_and_writes_the_same() -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for mask in masks():
        encoded = encode_rle(mask)
        as_bytes = {**encoded, "counts": str(encoded["counts"]).encode()}
        assert as_bytes == coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert (coco.decode(as_bytes) == mask).all()
        if mask.any():
            assert bounding_box(mask) == coco.toBbox(as_bytes).tolist()
