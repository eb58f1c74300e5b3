"""Images of N channels, written by tifffile, rasterio, pydicom, numpy and Pillow: exact values, or a clear error."""

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.image_samples import encoded, png_by_hand, scene

from gtsa_kit.data.channels.image import ChannelLayout, Window
from gtsa_kit.data.channels.read import check_layout, read_channels, read_header
from gtsa_kit.data.image_io import ImageError

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")


def samples(count: int, dtype: str, height: int = 40, width: int = 56) -> np.ndarray:
    """Return (H, W, count) random samples over the whole range of a type; no two are likely to be equal."""
    values = np.random.default_rng(count).random((height, width, count))
    if dtype == "float32":
        return (1000 * values - 500).astype(np.float32)
    return (values * np.iinfo(dtype).max).astype(dtype)


def tiff(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **{"photometric": "minisblack", **options})
    return buffer.getvalue()


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def check(content: bytes, expected: np.ndarray, colors: bool = False) -> None:
    image, header = read_channels(content), read_header(content)
    assert image.pixels.dtype == expected.dtype
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.layout == header.layout == ChannelLayout(expected.shape[-1], expected.dtype.name, colors)
    assert (header.height, header.width) == expected.shape[:2]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "contig"},
        {"planarconfig": "contig", "tile": (16, 16), "compression": "zlib", "predictor": True},
        {"planarconfig": "contig", "bigtiff": True, "byteorder": ">", "rowsperstrip": 7},
        {"planarconfig": "separate", "tile": (32, 16), "compression": "lzw"},
        {"pages": True},
        {"pages": True, "metadata": None},
        {"pages": True, "ome": True, "metadata": {"axes": "CYX"}},
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_bands_of_a_tiff_are_exact(options: dict[str, Any], dtype: str) -> None:
    values, options = samples(13, dtype), dict(options)
    is_planar = options.pop("pages", False) or options["planarconfig"] == "separate"
    check(tiff(np.moveaxis(values, -1, 0) if is_planar else values, **options), values)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_colors_are_known_as_such(dtype: str) -> None:
    values = samples(3, dtype)
    check(tiff(values, photometric="rgb"), values, colors=True)
    check(png_by_hand(values), values, colors=True)
    check(tiff(values, planarconfig="contig"), values)
    gray = samples(1, dtype)
    check(png_by_hand(gray[..., 0]), gray)
    check(npy(gray[..., 0]), gray)


def test_alpha_and_jpeg_are_samples_like_others() -> None:
    deep = samples(4, "uint16")
    check(png_by_hand(deep), deep)
    check(encoded(samples(4, "uint8"), "PNG"), samples(4, "uint8"))
    assert read_channels(encoded(scene(), "JPEG")).layout == ChannelLayout(3, "uint8", True)


def test_an_image_is_upright() -> None:
    values = samples(2, "uint16")
    for orientation, expected in (
        (1, values),
        (3, values[::-1, ::-1]),
        (6, np.rot90(values, -1)),
        (8, np.rot90(values)),
    ):
        content = tiff(values, planarconfig="contig", extratags=[(274, "H", 1, orientation, True)])
        np.testing.assert_array_equal(read_channels(content).pixels, expected)
        assert read_channels(content).orientation == orientation


def test_zero_may_be_white() -> None:
    values = samples(1, "uint16")
    content = tiff(values[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_channels(content).pixels, 65535 - values)


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}])
def test_slices_are_frames_and_channels_are_channels(options: dict[str, Any]) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 24, 32)).astype(np.uint16)
    content = tiff(values, metadata={"axes": "ZCYX"}, **options)
    assert read_header(content).frames == 4
    for frame in range(4):
        np.testing.assert_array_equal(read_channels(content, frame=frame).pixels, np.moveaxis(values[frame], 0, -1))
    with pytest.raises(ImageError, match="frame 4 of 4"):
        read_channels(content, frame=4)


@pytest.mark.parametrize("kind", ["interleaved", "planes", "npy"])
def test_a_window_is_read_without_the_rest(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = samples(5, "uint16", 96, 128)
    file = tmp_path / "scene"
    if kind == "npy":
        file.write_bytes(npy(values))
    elif kind == "planes":
        file.write_bytes(tiff(np.moveaxis(values, -1, 0), planarconfig="separate", tile=(16, 16), compression="zlib"))
    else:
        file.write_bytes(tiff(values, planarconfig="contig", tile=(16, 16), compression="zlib"))
    decoded: list[int] = []
    original = tifffile.TiffPage.decode.func

    def counted(page: Any) -> Any:
        decode = original(page)

        def decode_and_count(*args: Any, **options: Any) -> Any:
            decoded.append(1)
            return decode(*args, **options)

        return decode_and_count

    monkeypatch.setattr(tifffile.TiffPage, "decode", property(counted))
    window = Window(33, 17, 63, 47)
    with open(file, "rb") as opened:
        # The limit would not hold for the whole image.
        image = read_channels(opened, max_pixels=3200, window=window)
    np.testing.assert_array_equal(image.pixels, values[17:47, 33:63])
    assert len(decoded) == {"interleaved": 4, "planes": 20, "npy": 0}[kind]


def test_whole_numbers_and_floats_of_other_sizes_become_float32_where_that_is_exact() -> None:
    for dtype in ("int8", "int16", "int32", "uint32", "float16", "float64"):
        values = np.arange(-100 * (dtype[0] != "u"), 100).reshape(-1, 10).astype(dtype)
        image = read_channels(npy(values))
        assert image.pixels.dtype == np.float32
        np.testing.assert_array_equal(image.pixels[..., 0], values)
    with pytest.raises(ImageError, match="from 0 to 16777217, which float32 does not all hold; store float32"):
        read_channels(npy(np.array([[0, 2**24 + 1]])))


def test_channels_of_an_array_are_its_shorter_end() -> None:
    values = samples(13, "float32")
    check(npy(values), values)
    check(npy(np.moveaxis(values, -1, 0).copy()), values)
    check(npy(np.asfortranarray(values)), values)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


NAN = samples(2, "float32")
NAN[3, 4, 1], NAN[5, 6, 0] = np.nan, np.inf
HUGE_NPY = npy(np.zeros((4, 4), np.uint8)).replace(b"(4, 4)", b"(4000000, 4000000)")
_IHDR = struct.pack(">IIBBBBB", 30_000, 30_000, 16, 2, 0, 0, 0)
HUGE_PNG = (
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + _IHDR + struct.pack(">I", zlib.crc32(b"IHDR" + _IHDR))
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"no image at all", "not an image, damaged beyond recognition"),
        (npy(np.array([[Code()]])), "samples of type object, which are not read"),
        (npy(np.zeros((3, 4, 5, 6))), r"an array \(3, 4, 5, 6\) is no image; save \(H, W\)"),
        (npy(np.zeros((4, 4), bool)), "samples of type bool"),
        (npy(np.zeros((4, 4), complex)), "samples of type complex128"),
        (npy(samples(3, "uint8"))[:-7], "bytes follow the header, where the array"),
        (HUGE_NPY, "is 16000000 megapixels, above the limit of 178"),
        (HUGE_PNG, "30000 x 30000 is 900 megapixels, above the limit of 178"),
        (npy(NAN), "2 of 2240 pixels are NaN or infinite; mark them as nodata in the file, or fill them"),
        (tiff(NAN, planarconfig="contig"), "2 of 2240 pixels are NaN or infinite"),
        (tiff(samples(3, "uint8"))[:300], ""),
        (tiff(np.zeros((20, 20), bool), photometric="miniswhite"), "a TIFF of 1 bit"),
        (tiff(samples(1, "uint8")[..., 0], photometric="palette", colormap=np.zeros((3, 256), np.uint16)), "palette"),
        (encoded(scene()[..., 0] > 128, "PNG"), "an image of 1 bit, which are no intensities"),
        (tiff(np.full((20, 20), 7, np.uint16), extratags=[(42113, "s", 0, "7", True)]), "no pixel holds data"),
    ],
)
def test_what_is_no_image_of_channels_has_a_reason(content: bytes, reason: str, capsys: Any) -> None:
    with pytest.raises(ImageError, match=rf"^a\.tif: .*{reason}"):
        read_channels(content, Path("a.tif"))
    assert "executed" not in capsys.readouterr().out


def test_bytes_are_limited_as_well_as_pixels() -> None:
    content = tiff(np.zeros((13, 500, 500), np.float32), compression="zlib")
    assert len(content) < 50_000
    with pytest.raises(ImageError, match=r"500 x 500 of 13 channels of float32 is 13 MB, above the limit of 3$"):
        read_channels(content, max_pixels=10**6)


def test_a_tile_that_inflates_to_more_than_its_size_takes_no_memory() -> None:
    content = bytearray(tiff(np.zeros((16, 16), np.uint8), tile=(16, 16), compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as opened:
        page = opened.pages[0]
        count, start = page.tags["TileByteCounts"].valueoffset, page.tags["TileOffsets"].valueoffset
    bomb = zlib.compress(bytes(2**26))
    content[start : start + 4], content[count : count + 4] = (
        struct.pack("<I", len(content)),
        struct.pack("<I", len(bomb)),
    )
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(ImageError):
            read_channels(bytes(content) + bomb)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def with_tile(content: bytes, tile: bytes) -> bytes:
    """Return a TIFF whose only tile has another content."""
    changed = bytearray(content)
    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        tags = opened.pages[0].tags
        for name, value in (("TileByteCounts", len(tile)), ("TileOffsets", len(content))):
            changed[tags[name].valueoffset : tags[name].valueoffset + 4] = struct.pack("<I", value)
    return bytes(changed) + tile


def huge(kind: str, side: int = 30_000) -> bytes:
    """Return the content of a tile whose header states a side, and hardly any pixels."""
    sides = struct.pack(">II", side, side)
    if kind == "png":
        return png_by_hand(np.zeros((8, 8), np.uint8), size=(side, side))
    if kind == "jpeg":
        small = encoded(np.zeros((8, 8), np.uint8), "JPEG")
        at = small.index(b"\xff\xc0") + 5
        return small[:at] + struct.pack(">HH", side, side) + small[at + 4 :]
    import imagecodecs

    small = imagecodecs.jpeg2k_encode(np.zeros((8, 8), np.uint8), codecformat="j2k")
    return small[:8] + sides + small[16:24] + sides + small[32:]


@pytest.mark.parametrize("kind", ["jpeg", "jpeg2000", "png"])
def test_a_tile_whose_own_header_states_a_large_image_is_refused(kind: str) -> None:
    values = samples(1, "uint8", 16, 16)[..., 0]
    valid = tiff(values, tile=(16, 16), compression=kind)
    np.testing.assert_allclose(read_channels(valid).pixels[..., 0], values, atol=60 if kind == "jpeg" else 0)
    with pytest.raises(ImageError, match=r"a tile of 256 pixels whose content states 30000 x 30000"):
        read_channels(with_tile(valid, huge(kind)))
    for cut in range(0, 40, 7):
        with pytest.raises(ImageError):
            read_channels(with_tile(valid, huge(kind)[:cut] or b"?"))


def test_tiles_and_codecs_without_a_limit_are_refused() -> None:
    content = bytearray(tiff(samples(1, "uint8", 16, 16)[..., 0], tile=(16, 16), compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as opened:
        tags = opened.pages[0].tags
        for name in ("TileWidth", "TileLength"):
            content[tags[name].valueoffset : tags[name].valueoffset + 2] = struct.pack("<H", 60_000)
    with pytest.raises(ImageError, match="a TIFF of 16 x 16 with tiles of 60000 x 60000; store smaller tiles"):
        read_channels(bytes(content))
    with pytest.raises(ImageError, match="compressed as JPEGXL, which is not read; store it with deflate"):
        read_channels(tiff(samples(1, "uint8")[..., 0], compression="jpegxl"))


def test_other_channels_are_refused_before_a_pixel_is_decoded() -> None:
    def check(layout: ChannelLayout) -> None:
        raise ImageError(Path("a"), f"no {layout}")

    damaged = tiff(samples(4, "uint16"), planarconfig="contig")[:-5000]
    with pytest.raises(ImageError, match="no 4 channels of uint16"):
        read_channels(damaged, check=check)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ModuleNotFoundError, match=r"tifffile is not installed; pip install 'gtsa-kit\[tiff\]'"):
        read_channels(tiff(samples(1, "uint8")))


def test_other_counts_and_depths_are_named() -> None:
    required = ChannelLayout(13, "uint16")
    check_layout(ChannelLayout(13, "uint16", True), required, Path("a"))
    with pytest.raises(ImageError, match=r"^a: 4 channels of uint16, where the others have 13$"):
        check_layout(ChannelLayout(4, "uint16"), required, Path("a"))
    with pytest.raises(ImageError, match=r"^a: samples of uint8, where the others have uint16$"):
        check_layout(ChannelLayout(13, "uint8"), required, Path("a"))


@pytest.mark.parametrize(
    ("nodata", "dtype"),
    [(0, "uint8"), (0, "uint16"), (7, "uint16"), (0, "float32"), (-9999, "float32"), (float("nan"), "float32")],
)
def test_nodata_of_a_geotiff_is_a_mask(nodata: float, dtype: str, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    values = samples(4, dtype)
    values[values == nodata] = 1
    empty = np.zeros(values.shape[:2], bool)
    empty[5:20, 30:], empty[33, 2] = True, True
    values[empty] = nodata
    values[11, 12, 2] = nodata  # one channel is enough
    empty[11, 12] = True
    _write_geotiff(rasterio, tmp_path / "a.tif", values, nodata=nodata)
    image = read_channels((tmp_path / "a.tif").read_bytes())
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, ~empty)
    np.testing.assert_array_equal(image.pixels, values)
    window = Window(25, 3, 50, 15)
    part = read_channels((tmp_path / "a.tif").read_bytes(), window=window)
    assert part.valid is not None
    np.testing.assert_array_equal(part.valid, ~empty[3:15, 25:50])


def test_a_mask_page_of_a_geotiff_is_a_mask(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    values, visible = samples(4, "uint16"), np.ones((40, 56), bool)
    visible[10:, :9] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        _write_geotiff(rasterio, tmp_path / "a.tif", values, mask=visible)
    image = read_channels((tmp_path / "a.tif").read_bytes())
    np.testing.assert_array_equal(image.pixels, values)
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, visible)


def _write_geotiff(rasterio: Any, path: Path, values: np.ndarray, nodata: Any = None, mask: Any = None) -> None:
    height, width, count = values.shape
    transform = rasterio.transform.from_origin(500_000, 5_000_000, 10, 10)
    shape = {"height": height, "width": width, "count": count, "dtype": values.dtype}
    with rasterio.open(
        path,
        "w",
        "GTiff",
        crs="EPSG:32632",
        transform=transform,
        nodata=nodata,
        tiled=True,
        blockxsize=16,
        blockysize=16,
        compress="deflate",
        **shape,
    ) as file:
        file.write(np.moveaxis(values, -1, 0))
        if mask is not None:
            file.write_mask(mask)
