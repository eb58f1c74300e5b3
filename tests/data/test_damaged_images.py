"""Damaged image files: whatever Pillow refuses is refused on every path that reads images."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.image_samples import encoded, png_by_hand, scene, tiff_by_hand
from PIL import Image, PngImagePlugin

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.decode import IMAGES_THAT_REPAY_TORCHVISION, decode, use_fast_decoder
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.formats import pillow_formats
from gtsa_kit.data.image_files import validate_images
from gtsa_kit.data.image_io import ImageError, open_bytes, open_image, open_mask
from gtsa_kit.data.multicrop import MultiCropDataset
from gtsa_kit.data.sources import FileSource
from gtsa_kit.embedding.extract import load_image
from gtsa_kit.embedding.preprocess import Preprocessor
from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.export.layout import InputFormat
from gtsa_kit.models.preprocessing import Preprocessing

# Pillow warns before it rejects a file; these tests are about the error.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")

RAMP_16 = np.linspace(0, 65535, 24 * 32).round().astype(np.uint16).reshape(24, 32)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
"""Compresses badly, so that most bytes of a file are of pixels."""

SOUND = {
    "jpeg": encoded(scene(), "JPEG"),
    "progressive": encoded(scene(), "JPEG", progressive=True),
    "cmyk": encoded(Image.fromarray(scene()).convert("CMYK"), "JPEG"),
    "mpo": encoded(scene(), "MPO", save_all=True, append_images=[Image.fromarray(scene()[::-1])]),
    "png": encoded(scene(), "PNG"),
    "palette": encoded(Image.fromarray(scene()).quantize(16), "PNG", transparency=3),
    "png16": png_by_hand(RAMP_16),
    "apng": encoded(scene(), "PNG", save_all=True, append_images=[Image.fromarray(scene()[::-1])]),
    "webp": encoded(scene(), "WEBP"),
    "webp lossless": encoded(scene(), "WEBP", lossless=True),
    "webp animated": encoded(scene(), "WEBP", save_all=True, append_images=[Image.fromarray(scene()[::-1])]),
    "tiff": encoded(scene(), "TIFF"),
    "tiff lzw": encoded(scene(), "TIFF", compression="tiff_lzw"),
    "tiff 16": tiff_by_hand(RAMP_16, ">", 6),
    "tiff float": tiff_by_hand((RAMP_16 / 65535).astype(np.float32)),
    "bmp": encoded(scene(), "BMP"),
    "gif": encoded(scene(), "GIF"),
}


@pytest.fixture(autouse=True, scope="module")
def fast_decoder() -> None:
    """Decode by torchvision where it can, as commands with many images do."""
    use_fast_decoder(IMAGES_THAT_REPAY_TORCHVISION)


def opened(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    return np.asarray(open_image(path))


@pytest.mark.parametrize("name", SOUND)
def test_truncated_file_is_rejected_or_complete(tmp_path, name):
    content = SOUND[name]
    whole = opened(tmp_path / "whole", content)
    refused = 0
    for length in np.unique(np.r_[np.linspace(0, len(content) - 1, 24).astype(int), len(content) - np.arange(1, 16)]):
        try:
            got = opened(tmp_path / "cut.jpg", content[:length])
        except ImageError:
            refused += 1
            continue
        # Some bytes hold no pixel (a PNG's end marker, an MPO's second frame): a file without them may be read.
        assert np.array_equal(got, whole), f"{length} of {len(content)} bytes passed for the whole picture"
    assert refused >= 10


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        kind = rng.integers(5)
        # Half of the damage is in the header, which matters most.
        at = int(rng.integers(min(len(data), 64) if rng.random() < 0.5 else len(data)))
        if kind == 0:
            data[at] ^= 1 << rng.integers(8)
        elif kind == 1:
            data[at : at + 4] = rng.bytes(4)
        elif kind == 2:
            data[at : at + 4] = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"][rng.integers(3)]
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 40))]
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 40)))
        if not data:
            return b""
    return bytes(data)


@pytest.mark.parametrize("name", SOUND)
def test_damaged_files_raise_only_image_errors(tmp_path, name):
    rng = np.random.default_rng(list(name.encode()))
    paths = [tmp_path / f"{i}.jpg" for i in range(20)]
    for path in paths:
        path.write_bytes(mutated(SOUND[name], rng))
    source = FileSource(Path(), paths)
    # Any other exception fails the test. The limit bounds the time for mutated sizes.
    for entry in validate_images(source, source.entries(), max_pixels=1_000_000):
        assert entry.reason
        assert "\n" not in entry.reason


def damaged(content: bytes, count: int) -> Iterator[bytes]:
    """Yield the content with one flipped bit, with one wrong byte behind the header, or cut off."""
    rng = np.random.default_rng(len(content))
    for number in range(count):
        data = bytearray(content)
        at = int(rng.integers(len(data)))
        if number % 4 == 3:
            del data[at:]
        elif number % 4 == 2:
            data[at] = rng.integers(256)
        else:
            data[at] ^= 1 << rng.integers(8)
        yield bytes(data)


def refused_by_pillow(content: bytes) -> bool:
    """Return whether Pillow alone, without any help, can't decode the first frame."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as image:
            warnings.simplefilter("ignore")
            if image.width * image.height <= 10**6:  # a damaged header may name any size, which nothing refuses
                image.load()
    except Exception:  # whatever it raises
        return True
    return False


NOISY = {
    "png": encoded(NOISE, "PNG"),
    "png exif": encoded(NOISE, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "png palette": encoded(Image.fromarray(NOISE).quantize(64), "PNG", transparency=3),
    "png 16": png_by_hand(NOISE.astype(np.uint16) * 257),
    "jpeg": encoded(NOISE, "JPEG"),
    "jpeg progressive": encoded(NOISE, "JPEG", progressive=True),
    "jpeg restart": encoded(NOISE, "JPEG", restart_marker_blocks=2),
    "jpeg cmyk": encoded(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
    "mpo": encoded(NOISE, "MPO", save_all=True, append_images=[Image.fromarray(NOISE[::-1])]),
    "webp": encoded(NOISE, "WEBP"),
    "webp lossless": encoded(NOISE, "WEBP", lossless=True),
    "webp animated": encoded(NOISE, "WEBP", save_all=True, append_images=[Image.fromarray(NOISE[::-1])]),
    "tiff": encoded(NOISE, "TIFF"),
    "tiff lzw": encoded(NOISE, "TIFF", compression="tiff_lzw"),
    "tiff deflate": encoded(NOISE, "TIFF", compression="tiff_adobe_deflate"),
    "tiff jpeg": encoded(NOISE, "TIFF", compression="jpeg"),
    "bmp": encoded(NOISE, "BMP"),
    "bmp palette": encoded(Image.fromarray(NOISE).quantize(64), "BMP"),
    "dib": encoded(NOISE, "DIB"),
    "gif": encoded(NOISE, "GIF"),
    **({"avif": encoded(NOISE, "AVIF", speed=10)} if "AVIF" in pillow_formats() else {}),
}


def test_the_samples_hold_every_format_that_is_read() -> None:
    formats = set()
    for content in NOISY.values():
        with Image.open(io.BytesIO(content)) as image:
            formats.add(image.format)
    assert formats - {"MPO"} == set(pillow_formats()) - {"HEIF"}  # Pillow alone writes no HEIF


@pytest.mark.parametrize("name", NOISY)
def test_whatever_pillow_refuses_is_refused_everywhere(name: str, tmp_path: Path) -> None:
    refused = [content for content in damaged(NOISY[name], 60) if refused_by_pillow(content)]
    assert len(refused) >= 5, "the damage must show"
    for content in refused:
        for read in (open_bytes, decode):
            with pytest.raises(ImageError):
                read(content)
    preprocessor = Preprocessor(
        Preprocessing(), ResizePolicy("fixed", (32, 32), patch=16), InputFormat(True, "nhwc", 16)
    )
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, content in zip(paths, [*refused[:3], encoded(NOISE, "BMP")], strict=True):
        path.write_bytes(content)
    entries = [Entry(path.name, str(path)) for path in paths]
    source = FileSource(tmp_path)
    for entry, path in zip(entries[:3], paths, strict=False):
        for read in (open_image, open_mask):
            with pytest.raises(ImageError):
                read(path)
        assert isinstance(load_image(entry, source, preprocessor), FailedImage)
    assert [entry.name for entry in validate_images(source, entries)] == [path.name for path in paths[:3]]
    dataset = MultiCropDataset(source, entries, ViewsConfig(global_size=32, local_size=16, local_crops=1), seed=0)
    skipped = {entry.name for t in range(4) for entry in dataset[t].unreadable}
    assert skipped == {path.name for path in paths[:3]}


def test_a_png_is_decoded_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    decoded = []
    content = encoded(NOISE, "PNG")
    (tmp_path / "a.png").write_bytes(content)
    real = PngImagePlugin.PngImageFile.load_prepare
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", lambda image: decoded.append(1) or real(image))
    for read in (lambda: decode(content), lambda: open_image(tmp_path / "a.png"), lambda: open_bytes(content)):
        decoded.clear()
        read()
        assert len(decoded) == 1
