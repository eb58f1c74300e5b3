import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.image_samples import chunk, encoded, jpeg, png_by_hand, scene, tiff_by_hand
from PIL import Image

from gtsa_kit.data import image_io as images
from gtsa_kit.data.formats import pillow_formats
from gtsa_kit.data.image_io import ImageError, decode_image, open_bytes, open_image

# Pillow warns before it rejects a file; these tests are about the error.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")

needs_avif = pytest.mark.skipif("AVIF" not in pillow_formats(), reason="this Pillow was built without AVIF")

RAMP_16 = np.linspace(0, 65535, 24 * 32).round().astype(np.uint16).reshape(24, 32)


def opened(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=-1)


def over_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return color * share + 255 * (1 - share)


# --- color modes and formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("DIB", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_lossless_formats_keep_every_value(tmp_path, kind, options):
    # The suffix is wrong on purpose: the content decides.
    assert np.array_equal(opened(tmp_path / "a.jpg", encoded(scene(), kind, **options)), scene())


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, 12),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 12),
        ("WEBP", {"quality": 95}, 24),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 24),
        ("GIF", {}, 40),  # 256 colors
        pytest.param("AVIF", {"quality": 95, "speed": 10}, 24, marks=needs_avif),
    ],
)
def test_lossy_formats_are_within_tolerance(tmp_path, kind, options, tolerance):
    got = opened(tmp_path / "a.jpg", encoded(scene(), kind, **options))
    assert np.abs(got.astype(int) - scene()).max() <= tolerance


def test_gray_jpeg_has_three_equal_channels(tmp_path):
    got = opened(tmp_path / "a.jpg", encoded(scene()[..., 0], "JPEG", quality=95))
    assert np.array_equal(got, gray(got[..., 0]))
    assert np.abs(got[..., 0].astype(int) - scene()[..., 0]).max() <= 6


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_equals_pillows_conversion(tmp_path, kind):
    content = encoded(Image.fromarray(scene()).convert("CMYK"), kind)
    got = opened(tmp_path / "a.jpg", content)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "CMYK"
        assert np.array_equal(got, np.asarray(image.convert("RGB")))
    # and it is the picture, not its negative (Adobe stores CMYK upside down)
    assert np.abs(got.astype(int) - scene()).mean() < 8


def test_ycbcr_tiff(tmp_path):
    got = opened(tmp_path / "a.tif", encoded(Image.fromarray(scene()).convert("YCbCr"), "TIFF"))
    assert np.abs(got.astype(int) - scene()).max() <= 3


def test_one_bit_png_is_black_and_white(tmp_path):
    bits = np.indices((9, 11)).sum(0) % 3 == 0  # a width that is no multiple of 8
    assert np.array_equal(opened(tmp_path / "a.png", encoded(bits, "PNG")), gray(bits * 255))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_palette(tmp_path, kind):
    image = Image.fromarray(scene()).quantize(16)
    got = opened(tmp_path / "a.png", encoded(image, kind))
    assert np.array_equal(got, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_composited_over_white(tmp_path, kind):
    alpha = np.tile(np.linspace(0, 255, 32).round().astype(np.uint8), (24, 1))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    got = opened(tmp_path / "a.png", encoded(np.dstack([scene(), alpha]), kind, **options))
    assert np.abs(got - over_white(scene(), alpha)).max() <= 1
    assert (got[:, 0] == 255).all()  # nothing of the colors below full transparency


def test_gray_with_alpha_is_composited_over_white(tmp_path):
    alpha = scene()[..., 1]
    got = opened(tmp_path / "a.png", encoded(Image.fromarray(np.dstack([scene()[..., 0], alpha]), "LA"), "PNG"))
    assert np.abs(got - over_white(gray(scene()[..., 0]), alpha)).max() <= 1


@pytest.mark.parametrize("per_color", [False, True])
def test_transparent_palette_is_composited_over_white(tmp_path, per_color):
    image = Image.fromarray(scene()).quantize(16)
    alphas = bytes(range(0, 256, 17)) if per_color else bytes(0 if i == 3 else 255 for i in range(16))
    got = opened(tmp_path / "a.png", encoded(image, "PNG", transparency=alphas if per_color else 3))
    alpha = np.frombuffer(alphas, np.uint8)[np.asarray(image)]
    assert np.abs(got - over_white(np.asarray(image.convert("RGB")), alpha)).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_color_key_is_composited_over_white(tmp_path, bits):
    samples = scene().astype(np.uint16) * (257 if bits == 16 else 1)
    key = chunk(b"tRNS", samples[5, 6].astype(">u2").tobytes())
    got = opened(tmp_path / "a.png", png_by_hand(samples.astype(f"u{bits // 8}"), more=key))
    expected = np.where((scene() == scene()[5, 6]).all(-1, keepdims=True), 255, scene())
    assert np.array_equal(got, expected)


# --- more than 8 bits: the whole range of the samples becomes 0 to 255, nothing is clipped --------------------------


@pytest.mark.parametrize(
    "content",
    [
        png_by_hand(RAMP_16),
        encoded(Image.fromarray(RAMP_16), "PNG"),
        encoded(Image.fromarray(RAMP_16), "TIFF"),
        encoded(Image.fromarray(RAMP_16), "TIFF", compression="tiff_lzw"),
        *(tiff_by_hand(samples, order) for order in "<>" for samples in (RAMP_16, RAMP_16.astype(np.int32))),
    ],
)
def test_16_bits_keep_their_high_byte(tmp_path, content):
    assert np.array_equal(opened(tmp_path / "a.tif", content), gray(RAMP_16 >> 8))


def test_16_bit_gray_with_alpha(tmp_path):
    alpha = RAMP_16[::-1]
    got = opened(tmp_path / "a.png", png_by_hand(np.dstack([RAMP_16, alpha])))
    assert np.abs(got - over_white(gray(RAMP_16 >> 8), alpha >> 8)).max() <= 1


@pytest.mark.parametrize("write", [png_by_hand, tiff_by_hand, lambda samples: tiff_by_hand(samples, ">")])
def test_16_bit_color(tmp_path, write):
    samples = scene().astype(np.uint16) * 256 + 77  # low bytes that must not show
    assert np.array_equal(opened(tmp_path / "a.png", write(samples)), scene())


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_tiff_is_scaled_by_its_range(tmp_path, order, top):
    samples = (RAMP_16 / 65535 * top).astype(np.float32)
    got = opened(tmp_path / "a.tif", tiff_by_hand(samples, order))
    assert np.abs(got - RAMP_16[..., None] / 257).max() <= 0.51


def test_32_bit_tiff_is_scaled_by_its_range(tmp_path):
    samples = RAMP_16.astype(np.int32) << 15  # 0 to 2**31
    got = opened(tmp_path / "a.tif", tiff_by_hand(samples))
    assert np.array_equal(got, gray(RAMP_16 >> 9))  # a range of 2**32, as if it had no sign


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_float_with_unknown_range_is_rejected(tmp_path, bad):
    samples = np.full((4, 4), 0.5, np.float32)
    samples[1, 2] = bad
    with pytest.raises(ImageError, match="no known range"):
        opened(tmp_path / "a.tif", tiff_by_hand(samples))


# --- several pictures in one file: the first -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("WEBP", {"lossless": True, "duration": 100}, 0),
        ("PNG", {"duration": 100}, 0),
        ("TIFF", {}, 0),
        ("GIF", {"duration": 100}, 40),
        ("MPO", {"quality": 95, "subsampling": 0}, 12),  # what phones write for depth and stereo
    ],
)
def test_the_first_frame_is_read(tmp_path, kind, options, tolerance):
    others = [Image.fromarray(255 - scene()), Image.fromarray(scene()[::-1])]
    content = encoded(scene(), kind, save_all=True, append_images=others, **options)
    got = opened(tmp_path / "a.jpg", content)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 3
    assert np.abs(got.astype(int) - scene()).max() <= tolerance


# --- upright ---------------------------------------------------------------------------------------------------------

# EXIF 2.3, tag 0x0112: the side of the upright picture on which the file's row 0 lies, and that of its column 0.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    sides = SIDES[orientation]
    rotated = stored.swapaxes(0, 1) if sides[0] in ("left", "right") else stored
    rotated = rotated[::-1] if "bottom" in sides else rotated
    return rotated[:, ::-1] if "right" in sides else rotated


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("MPO", {"save_all": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        pytest.param("AVIF", {"speed": 10}, marks=needs_avif),
    ],
)
def test_every_orientation_is_applied(tmp_path, kind, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = opened(tmp_path / "plain.jpg", encoded(scene(), kind, **options))
    rotated = opened(tmp_path / "turned.jpg", encoded(scene(), kind, exif=exif, **options))
    assert np.array_equal(rotated, upright(plain, orientation))


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "stored",
    [RAMP_16, (RAMP_16 >> 8).astype(np.uint8), (RAMP_16 / 65535).astype(np.float32), scene()],
    ids=["16 bit", "8 bit", "float", "rgb"],
)
def test_orientation_of_raw_tiffs_is_applied_once(tmp_path, stored, order, orientation):
    # Pillow rotates TIFFs itself, and memory-mapped ones wrongly.
    plain = opened(tmp_path / "plain.tif", tiff_by_hand(stored, order))
    rotated = opened(tmp_path / "turned.tif", tiff_by_hand(stored, order, orientation))
    assert np.array_equal(rotated, upright(plain, orientation))


@pytest.mark.parametrize("orientation", [0, 9, 700])
def test_orientation_out_of_range_is_ignored(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(opened(tmp_path / "a.png", encoded(scene(), "PNG", exif=exif)), scene())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0rubbish all along",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",  # the directory lies outside
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\x01\0\0\0\xff\xff\xff\xff" * 3,  # entries missing
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",  # orientation "abc"
    ],
)
def test_damaged_exif_with_valid_pixels(tmp_path, kind, block):
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    plain = opened(tmp_path / "plain", encoded(scene(), kind, **options))
    assert np.array_equal(opened(tmp_path / "damaged", encoded(scene(), kind, exif=block, **options)), plain)


# --- odd sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 20000), (20000, 3)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_odd_sizes(tmp_path, kind, size):
    assert opened(tmp_path / "a.png", encoded(scene(*size), kind)).shape == (*size, 3)


@pytest.mark.parametrize(("claimed", "limit"), [((60_000, 60_000), None), ((13_000, 13_000), 100_000_000)])
def test_huge_image_is_rejected_before_it_is_decoded(tmp_path, claimed, limit):
    # In a separate process, because peak memory of other tests would hide this one's.
    path = tmp_path / "bomb.png"
    path.write_bytes(png_by_hand(scene(), size=claimed))
    check = f"""
import resource
from pathlib import Path
from gtsa_kit.data.formats import pillow_formats
from gtsa_kit.data.image_io import ImageError, open_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    open_image(Path({str(path)!r}), *{[limit] if limit else []})
except ImageError as error:
    print(error.reason)
assert peak() < before + 40_000, f"grew by {{peak() - before}} KiB"
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "limit" in done.stdout


def test_limit_counts_pixels(tmp_path):
    path = jpeg(tmp_path / "a.jpg")
    assert open_image(path, max_pixels=24 * 32).size == (32, 24)
    with pytest.raises(ImageError, match="32 x 24 is"):
        open_image(path, max_pixels=24 * 32 - 1)


# --- unreadable files -------------------------------------------------------------------------------------------------


def test_empty_file(tmp_path):
    with pytest.raises(ImageError, match=r"a\.jpg: empty file") as caught:
        opened(tmp_path / "a.jpg", b"")
    assert caught.value.path == tmp_path / "a.jpg"
    assert caught.value.reason == "empty file"


@pytest.mark.parametrize("content", [b"not an image\n", b"\0" * 1000, b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_file_that_is_no_image(tmp_path, content):
    with pytest.raises(ImageError):
        opened(tmp_path / "a.jpg", content)


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    pytest.importorskip("pillow_heif", reason="the optional package pillow-heif is not installed")
    assert "HEIF" in pillow_formats()
    got = opened(tmp_path / "a.heic", encoded(scene(), "HEIF", quality=95))
    assert np.abs(got.astype(int) - scene()).max() <= 24


@pytest.mark.parametrize(("name", "reason"), [("a.heic", "pillow-heif"), ("a.jxl", "no format that is read")])
def test_a_format_that_is_not_read_is_named(tmp_path, name, reason):
    if name == "a.heic" and "HEIF" in pillow_formats():
        pytest.skip("pillow-heif is installed")
    with pytest.raises(ImageError, match=reason):
        opened(tmp_path / name, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def test_orientation_behind_the_pixels_of_a_png_is_applied(tmp_path):
    content = encoded(scene(), "PNG")
    exif = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    end = chunk(b"IEND", b"")
    got = opened(tmp_path / "a.png", content.removesuffix(end) + exif + end)
    assert np.array_equal(got, upright(scene(), 6))


def test_formats_that_run_programs_are_rejected(tmp_path):
    content = encoded(scene(), "EPS")
    with pytest.raises(ImageError, match="not an image"):
        opened(tmp_path / "a.jpg", content)


def test_missing_file(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "gone.jpg")


def test_dangling_link(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "a.jpg")


def test_link_to_itself(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="symbolic links"):
        open_image(tmp_path / "a.jpg")


def test_folder(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(ImageError, match="not a regular file"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.timeout(120)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_permission_denied(tmp_path):
    jpeg(tmp_path / "a.jpg").chmod(0)
    with pytest.raises(ImageError, match="permission denied"):
        open_image(tmp_path / "a.jpg")


def test_nul_in_path():
    with pytest.raises(ImageError, match="null"):
        open_image(Path("a\0b.jpg"))


def test_file_that_is_deleted_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"rubbish")
    real = Image.open

    def vanish(file, formats):
        path.unlink()
        return real(file, formats=formats)

    monkeypatch.setattr(images.Image, "open", vanish)
    with pytest.raises(ImageError):
        open_image(path)


def test_files_are_closed(tmp_path):
    path = jpeg(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(encoded(scene(), "PNG")[:200])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("needs /proc")
    for _ in range(20):
        open_image(path)
        with pytest.raises(ImageError):
            open_image(tmp_path / "b.jpg")
    assert len(os.listdir("/proc/self/fd")) == before


def test_image_error_can_be_pickled():
    error = ImageError(Path("a b.jpg"), "empty file")
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.reason, str(again)) == (error.path, error.reason, str(error))


# --- content of files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_bytes_decode_as_files_do_and_give_the_orientation(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(scene(), kind, exif=exif)
    (tmp_path / "a").write_bytes(content)
    image = decode_image(content)
    assert image.orientation == orientation
    assert np.array_equal(image.image, open_image(tmp_path / "a"))
    assert np.array_equal(image.image, open_bytes(content))
    assert image.image.size == ((32, 24) if orientation < 5 else (24, 32))


def test_invalid_bytes_are_rejected_as_invalid_files_are(tmp_path):
    whole = encoded(scene(), "JPEG")
    for content, limit in ((b"", 10**6), (b"hello", 10**6), (whole[: len(whole) // 2], 10**6), (whole, 100)):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(ImageError) as by_path:
            open_image(tmp_path / "a", limit)
        with pytest.raises(ImageError) as by_content:
            open_bytes(content, tmp_path / "a", limit)
        assert by_path.value.reason == by_content.value.reason
