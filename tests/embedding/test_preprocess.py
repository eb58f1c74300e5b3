"""Preprocessing against Pillow, pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
from helpers.image_samples import encoded, scene
from helpers.paths import SCENES
from PIL import Image

from gtsa_kit.data.decode import IMAGES_THAT_REPAY_TORCHVISION, decode, use_fast_decoder
from gtsa_kit.data.image_io import ImageError, open_bytes
from gtsa_kit.embedding.preprocess import Preprocessor, normalize, resize
from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.embedding.torch_resize import MIN_TORCH_SHRINK, pass_order, resize_by_torch
from gtsa_kit.export.layout import InputFormat
from gtsa_kit.models.preprocessing import Preprocessing

PREPROCESSING = Preprocessing()
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "RGBA", "L", "CMYK", "P", "1", "I;16", "F", "YCbCr"),
}


@pytest.fixture(autouse=True, scope="module")
def fast_decoder() -> None:
    """Decode by torchvision where it can, as commands with many images do."""
    use_fast_decoder(IMAGES_THAT_REPAY_TORCHVISION)


def sample_images() -> list[np.ndarray]:
    """Return real images, if there are any here, and harder ones: noise and sharp edges."""
    rng = np.random.default_rng(0)
    real = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(SCENES.glob("*.jpg"))[:3]]
    noise = rng.integers(0, 2, (400, 620, 3), dtype=np.uint8) * 255
    return [*real, noise, noise.transpose(1, 0, 2).copy(), scene(701, 90), scene(33, 500)]


def difference(content: bytes, size: tuple[int, int]) -> int:
    fast = resize(decode(content)[0], size, PREPROCESSING)
    slow = PREPROCESSING.resized(open_bytes(content), size)
    assert fast.shape == slow.shape == (*size, 3)
    return int(np.abs(fast.astype(int) - slow).max())


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_every_format_and_mode_is_within_one_level(kind: str, mode: str) -> None:
    for picture in sample_images():
        image = Image.fromarray(picture)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        content = encoded(image, kind)
        assert np.array_equal(decode(content)[0], np.asarray(open_bytes(content)))
        for size in ((224, 224), (64, 160)):
            assert difference(content, size) <= 1, (kind, mode, picture.shape, size)


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"subsampling": 0}, {"quality": 20}, {"restart_marker_rows": 1}]
)
def test_every_kind_of_jpeg_is_decoded_to_the_same_values(options: dict[str, object]) -> None:
    content = encoded(scene(301, 203), "JPEG", **options)
    assert np.array_equal(decode(content)[0], np.asarray(open_bytes(content)))


def test_random_sizes_are_within_one_level() -> None:
    """Both round after each of two passes; on black and white noise, one value in a million differs by two levels."""
    rng = np.random.default_rng()
    fast = 0
    for _ in range(60):
        h, w = (16 * int(n) for n in rng.integers(1, 16, 2))
        height, width = int(h * rng.uniform(0.5, 5)), int(w * rng.uniform(0.5, 5))
        picture = rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255
        by_pillow = np.asarray(Image.fromarray(picture).resize((w, h), Image.Resampling.BICUBIC)).astype(int)
        difference = np.abs(resize(picture, (h, w), PREPROCESSING) - by_pillow)
        assert difference.max() <= 2, (height, width, h, w)
        assert (difference > 1).sum() <= 2, (height, width, h, w)
        fast += pass_order(height, width, h, w, PREPROCESSING.interpolation) is not None
    assert fast > 5, "torch's resize is never used"
    assert pass_order(100, 100, 96, 96, PREPROCESSING.interpolation) is None
    assert MIN_TORCH_SHRINK > 1


def test_the_order_of_the_passes_changes_pixels() -> None:
    """The difference is what `pass_order` detects."""
    picture = np.random.default_rng(0).integers(0, 2, (480, 640, 3), dtype=np.uint8) * 255
    rows, columns = (
        resize_by_torch(picture, (224, 224), PREPROCESSING.interpolation, order) for order in ("rows", "columns")
    )
    assert np.abs(rows.astype(int) - columns).max() > 1


def test_damaged_files_are_refused_exactly_when_pillow_refuses_them() -> None:
    rng = np.random.default_rng()
    for _ in range(150):
        content = bytearray(encoded(scene(64, 96), "JPEG", quality=90))
        if rng.random() < 0.5:
            content = content[: rng.integers(1, len(content))]
        else:
            for _ in range(3):
                content[rng.integers(2, len(content))] = rng.integers(0, 256)
        try:
            expected = np.asarray(open_bytes(bytes(content)))
        except ImageError:
            with pytest.raises(ImageError):
                decode(bytes(content))
        else:
            assert np.array_equal(decode(bytes(content))[0], expected)


def test_normalization_equals_that_of_the_encoder() -> None:
    pixels = scene(32, 48)
    assert np.array_equal(normalize(pixels, PREPROCESSING), PREPROCESSING(Image.fromarray(pixels), (32, 48)))


@pytest.mark.parametrize(("shape", "kind"), [((1, 1), "PNG"), ((1, 20000), "PNG"), ((20000, 1), "JPEG")])
def test_extreme_shapes(shape: tuple[int, int], kind: str) -> None:
    content = encoded(np.full((*shape, 3), 77, np.uint8), kind)
    for policy in (
        ResizePolicy("fixed", (224, 224), patch=16),
        ResizePolicy("short-side", (224, 224), patch=16),
        ResizePolicy("native", patch=16),
    ):
        prepared = Preprocessor(PREPROCESSING, policy, InputFormat(True, "nhwc", 16))("a", content)
        height, width = prepared.size
        assert (prepared.height, prepared.width) == shape
        assert height % 16 == width % 16 == 0
        assert height * width <= 8192 * 256
        assert np.abs(prepared.pixels.astype(int) - 77).max() <= 2


def test_large_images_are_decoded_in_full(tmp_path: Path) -> None:
    side = np.tile(np.linspace(0, 255, 6000).astype(np.uint8), (6000, 1))
    content = encoded(side, "JPEG", quality=80)
    assert difference(content, (224, 224)) <= 1
    with pytest.raises(ImageError, match="36 megapixels, above the limit of 30"):
        decode(content, "a", 30_000_000)
