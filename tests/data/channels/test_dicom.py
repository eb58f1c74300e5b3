"""DICOM files that pydicom writes: real values, brightness, frames, padding, colors."""

from typing import Any

import numpy as np
import pytest
from helpers.channel_models import dicom

from gtsa_kit.data.channels.image import ChannelLayout, Window
from gtsa_kit.data.channels.read import read_channels, read_header
from gtsa_kit.data.image_io import ImageError

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
STORED = np.random.default_rng(0).integers(0, 4096, (24, 32)).astype(np.uint16)


def opened(content: bytes, **options: Any) -> np.ndarray:
    image, header = read_channels(content, **options), read_header(content)
    assert image.layout == header.layout
    return image.pixels


def test_gray_has_real_values() -> None:
    content = dicom(STORED, RescaleSlope="2", RescaleIntercept="-1024")
    assert read_header(content).layout == ChannelLayout(1, "float32")
    np.testing.assert_array_equal(opened(content)[..., 0], 2.0 * STORED - 1024)
    np.testing.assert_array_equal(opened(dicom(STORED))[..., 0], STORED)
    signed = STORED.astype(np.int16) - 1000
    np.testing.assert_array_equal(opened(dicom(signed))[..., 0], signed)
    np.testing.assert_array_equal(opened(content, window=Window(3, 4, 9, 11))[..., 0], 2.0 * STORED[4:11, 3:9] - 1024)


def test_bright_is_more() -> None:
    content = dicom(STORED, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(opened(content)[..., 0], 4095.0 - STORED)
    rescaled = dicom(
        STORED,
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
        RescaleSlope="2",
        RescaleIntercept="5",
    )
    np.testing.assert_array_equal(opened(rescaled)[..., 0], 2.0 * (4095 - STORED) + 5)


def test_the_display_window_applies_on_request() -> None:
    content = dicom(STORED, WindowCenter="1000", WindowWidth="401", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(opened(content)[..., 0], STORED)
    visible = opened(content, dicom_window=True)[..., 0]
    expected = np.clip((STORED - 999.5) / 400 + 0.5, 0, 1) * 4095  # DICOM PS3.3, C.11.2.1.2.1
    np.testing.assert_allclose(visible, expected, rtol=1e-6, atol=1e-3)


def test_frames_are_read_one_by_one() -> None:
    frames = np.stack([STORED, STORED // 2, STORED // 3])
    content = dicom(frames)
    assert read_header(content).frames == 3
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(opened(content, frame=number)[..., 0], frame)


def test_padding_is_no_data() -> None:
    stored = STORED.copy()
    stored[:5], stored[5:, :3] = 4090, 4095
    image = read_channels(dicom(np.minimum(stored, 4095), PixelPaddingValue=4090, PixelPaddingRangeLimit=4095))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, stored < 4090)


def test_colors() -> None:
    colors = np.random.default_rng(1).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    content = dicom(colors)
    assert read_header(content).layout == ChannelLayout(3, "uint8", True)
    np.testing.assert_array_equal(opened(content), colors)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (dicom(None), "a DICOM file without pixels, such as a report or a plan"),
        (dicom(STORED)[:-100], ""),
        (dicom(STORED, Rows=40_000, Columns=40_000), "1600 megapixels, above the limit of 178"),
        (dicom(STORED).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"), ""),
        (bytes(128) + b"DICM" + bytes(50), ""),
    ],
)
def test_what_is_no_picture_has_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=f"^image: .*{reason}"):
        read_channels(content)
