"""Sizes that the encoder takes, and what is said about others."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gtsa_kit.export import load
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.sizes import check_sides


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder("vit_test").eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("height", "width", "words"),
    [
        (350, 352, "height must be a multiple of 16, got 350; the nearest is 336 or 352"),
        (32, 47, "width must be a multiple of 16, got 47; the nearest is 32 or 48"),
        (8, 32, "height must be a multiple of 16, got 8; the nearest is 16"),
    ],
)
def test_sizes_that_would_be_cut_are_refused(encoder: Encoder, height: int, width: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encoder(torch.zeros(1, 3, height, width))
    with pytest.raises(ValueError, match=words):
        check_sides(height, width, 16)


def test_every_multiple_of_the_patch_size_is_taken(encoder: Encoder) -> None:
    for height, width in ((16, 16), (48, 16), (16, 112)):
        assert encoder(torch.zeros(1, 3, height, width)).feature_map.shape[-2:] == (height // 16, width // 16)


def test_the_encoder_can_be_traced_and_exported(encoder: Encoder) -> None:
    """A trace records no branch of the check; torch.export turns it into a constraint of the input."""
    small, large = torch.zeros(1, 3, 32, 48), torch.randn(2, 3, 64, 32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", torch.jit.TracerWarning)
        traced = torch.jit.trace(lambda x: encoder(x).embedding, small, check_trace=False)
    assert not [entry for entry in caught if Path(entry.filename).name in ("sizes.py", "encoder.py")]
    torch.testing.assert_close(traced(small), encoder(small).embedding)
    axes = {2: 16 * torch.export.Dim("h", min=1, max=40), 3: 16 * torch.export.Dim("w", min=1, max=40)}
    axes[0] = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(encoder, (torch.zeros(2, 3, 32, 48),), dynamic_shapes=(axes,)).module()
    torch.testing.assert_close(program(large).embedding, encoder(large).embedding, atol=1e-5, rtol=0)
    with pytest.raises((ValueError, RuntimeError, AssertionError)):
        program(torch.zeros(2, 3, 56, 32))


@pytest.mark.parametrize(
    ("image", "size", "words"),
    [
        (np.zeros((32, 32, 3), np.uint8), None, "must be a PIL image, got ndarray; open a file"),
        ("photo.jpg", None, "must be a PIL image, got str"),
        (Image.new("L", (32, 32)), None, "must have the mode RGB, got L; convert it"),
        (Image.new("RGBA", (32, 32)), (32, 32), "must have the mode RGB, got RGBA"),
        (Image.new("RGB", (32, 32)), 32, r"size must be \(height, width\) in pixels, got 32"),
        (Image.new("RGB", (32, 32)), (32, 0), r"size must be \(height, width\)"),
    ],
)
def test_prepare_names_what_is_wrong(image: object, size: object, words: str, tiny_run: Path) -> None:
    for prepare in (load(tiny_run, "cpu").prepare, Preprocessing()):
        with pytest.raises(ValueError, match=words):
            prepare(image, size)  # type: ignore[operator]


def test_prepare_refuses_sizes_that_the_artifact_does_not_take(made: Callable, tiny_run: Path) -> None:
    image = Image.new("RGB", (50, 50))
    with pytest.raises(ValueError, match="height must be at least 16 and multiples of 16, got 40"):
        load(tiny_run, "cpu").prepare(image, (40, 32))
    assert load(tiny_run, "cpu").prepare(image, (48, 32)).shape == (3, 48, 32)
