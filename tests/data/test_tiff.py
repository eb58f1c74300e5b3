"""TIFF files of unusual samples: decoded right, or refused by name."""

import numpy as np
import pytest
from helpers.image_samples import encoded, scene, tiff_by_hand

from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_io import ImageError, open_bytes, open_mask

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

GRAY = scene()[..., 0]


def opened(content: bytes) -> np.ndarray:
    """Return one channel of a gray image, after both decoders agreed."""
    pixels = np.asarray(open_bytes(content))
    np.testing.assert_array_equal(decode(content)[0], pixels)
    return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels


@pytest.mark.parametrize(("bits", "order"), [(8, "<"), (8, ">"), (16, "<")])  # Pillow opens no fourth
def test_zero_may_be_white(bits: int, order: str) -> None:
    samples = GRAY if bits == 8 else GRAY.astype(np.uint16) * 257
    np.testing.assert_array_equal(opened(tiff_by_hand(samples, order, white_is_zero=True)), 255 - GRAY)


@pytest.mark.parametrize(("kind", "order"), [(np.uint32, "<"), (np.int32, "<"), (np.int32, ">")])
@pytest.mark.parametrize("factor", [1, 257, 2**24 + 1])
def test_32_bit_samples_have_the_range_of_8_16_or_32_bits(factor: int, kind: type, order: str) -> None:
    gray = GRAY if kind is np.uint32 or factor < 2**24 else GRAY // 2  # no value may be negative
    np.testing.assert_array_equal(opened(tiff_by_hand((gray.astype(np.int64) * factor).astype(kind), order)), gray)


@pytest.mark.parametrize("top", [300, 4000, 70_000, 2**27])
def test_32_bit_samples_of_an_unclear_range_are_refused(top: int) -> None:
    samples = (GRAY.astype(np.int64) * top // 255).astype(np.uint32)
    with pytest.raises(ImageError, match=r"samples from 0 to .* have no known range"):
        opened(tiff_by_hand(samples))


@pytest.mark.parametrize("top", [1.5, 700.0, 1e6])
def test_float_samples_of_an_unclear_range_are_refused(top: float) -> None:
    with pytest.raises(ImageError, match="have no known range"):
        opened(tiff_by_hand((GRAY / 255 * top).astype(np.float32)))


@pytest.mark.parametrize("order", "<>")
def test_planes_of_8_bits_are_read(order: str) -> None:
    np.testing.assert_array_equal(opened(tiff_by_hand(scene(), order, planes=True)), scene())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff_by_hand(scene().astype(np.uint16) * 257, planes=True), "planes of 16 bits .* interleaved"),
        (tiff_by_hand((GRAY // 2).astype(np.int8)), "signed samples of 8 bits"),
        (tiff_by_hand(GRAY.astype(np.int16)), "signed samples of 16 bits"),
        (tiff_by_hand(GRAY.astype(np.uint16), ">", white_is_zero=True), "TIFF of samples that are not read"),
        (tiff_by_hand(GRAY.astype(np.uint32), ">"), "TIFF of samples that are not read"),
        (tiff_by_hand(GRAY.astype(np.uint32), white_is_zero=True), "TIFF of samples that are not read"),
        (tiff_by_hand((GRAY / 255).astype(np.float32), white_is_zero=True), "32 bits where 0 is white"),
        (tiff_by_hand((GRAY / 255).astype(np.float64)), "TIFF of samples that are not read"),
    ],
)
def test_samples_that_pillow_gets_wrong_are_refused_by_name(content: bytes, reason: str, tmp_path) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    for read in (open_bytes, lambda content, path: decode(content, str(path))):
        with pytest.raises(ImageError, match=reason):
            read(content, tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {}), ("MPO", {}), ("WEBP", {}), ("TIFF", {"compression": "jpeg"})]
)
def test_lossy_masks_are_refused_by_name(kind: str, options: dict[str, object], tmp_path) -> None:
    (tmp_path / "mask.png").write_bytes(encoded(scene() // 128 * 128, kind, **options))
    with pytest.raises(ImageError, match=r"a mask of lossy .*, use PNG"):
        open_mask(tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_lzw"})]
)
def test_lossless_masks_are_read(kind: str, options: dict[str, object], tmp_path) -> None:
    colors = scene() // 128 * 128
    (tmp_path / "mask").write_bytes(encoded(colors, kind, **options))
    np.testing.assert_array_equal(open_mask(tmp_path / "mask")[0], colors)
