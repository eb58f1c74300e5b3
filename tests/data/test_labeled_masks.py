"""Segmentation datasets: matching of images and masks, label maps, and tiles."""

import json
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import BLOCK_COLORS, write_masked_image
from PIL import Image, ImageOps

from gtsa_kit.data.image_io import open_image
from gtsa_kit.data.label_file import read_mask_options
from gtsa_kit.data.label_map import VOID, MaskOptions, build_label_map
from gtsa_kit.data.labeled_masks import read_segmentation_dataset, tile_boxes
from gtsa_kit.progress import Note


@pytest.mark.parametrize(("size", "tile"), [((480, 360), 96), ((96, 96), 96), ((50, 200), 64), ((640, 480), None)])
def test_tiles_cover_every_pixel_with_the_fewest_tiles(size: tuple[int, int], tile: int | None) -> None:
    width, height = size
    covered, result = np.zeros((height, width), int), list(tile_boxes(width, height, tile))
    for top, left, bottom, right in result:
        assert (bottom - top, right - left) == (min(tile or height, height), min(tile or width, width))
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1
    assert len(result) == math.ceil(width / min(tile or width, width)) * math.ceil(height / min(tile or height, height))


def test_color_masks_and_index_masks_give_the_same_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        mask = write_masked_image(tmp_path, f"{index}", rng)
        mask[0, 0] = 3  # a color without a name
        colors = np.concatenate([BLOCK_COLORS, [[9, 9, 9]]]).astype(np.uint8)
        for kind in ("color", "palette"):
            (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(colors[mask]).save(tmp_path / "color" / f"{index}.png")
        image = Image.fromarray(mask, "P")
        image.putpalette(colors.tobytes())
        image.save(tmp_path / "palette" / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    names = {"".join(f"{level:02X}" for level in color): name for color, name in zip(BLOCK_COLORS, "rgb", strict=True)}
    (tmp_path / "names.json").write_text(json.dumps({f"#{color}": name for color, name in names.items()}))
    lines = [f"{name},{r},{g},{b}" for (r, g, b), name in zip(BLOCK_COLORS, "rgb", strict=True)]
    (tmp_path / "names.csv").write_text("\n".join(["name, r, g, b", *lines]))
    (tmp_path / "indices.json").write_text(json.dumps({"0": "r", "1": "g", "2": "b"}))
    result = {}
    for kind, table in (
        ("masks", "indices.json"), ("palette", "indices.json"), ("color", "names.json"), ("palette", "names.csv"),
    ):  # fmt: skip
        data = read_segmentation_dataset(tmp_path / "images", tmp_path / kind, read_mask_options(tmp_path / table, []))
        assert data.classes == ("r", "g", "b")
        result[kind, table] = [data.labels(pair) for pair in data.pairs]
    expected = result.pop(("masks", "indices.json"))
    assert expected[0][0, 0] == VOID
    for labels in result.values():
        np.testing.assert_array_equal(labels, expected)
    bare = read_segmentation_dataset(tmp_path / "images", tmp_path / "color", MaskOptions(ignore=("#090909",)))
    assert set(bare.classes) == {"#" + color.lower() for color in names}
    without = read_segmentation_dataset(
        tmp_path / "images", tmp_path / "color", read_mask_options(tmp_path / "names.csv", ["g"])
    )
    assert without.classes == ("r", "b")


def test_images_and_masks_that_do_not_match_are_skipped_and_listed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("sub/a", "b", "small", "nomask", "damaged", "badmask"):
        write_masked_image(tmp_path, name, rng)
    Image.new("L", (10, 10)).save(tmp_path / "masks" / "small.png")
    (tmp_path / "masks" / "nomask.png").rename(tmp_path / "masks" / "alone.png")
    (tmp_path / "images" / "damaged.png").write_bytes(b"")
    (tmp_path / "masks" / "badmask.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(ValueError, match=r"2 of 7 images and masks .* more than 20%.*; .*--mask-suffix"):
        read_segmentation_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"5 of 7 images and masks .* more than 50%.*; repair"):
        read_segmentation_dataset(tmp_path, max_missing=0.5)
    data = read_segmentation_dataset(tmp_path, max_missing=0.8)
    reasons = {item.path: item.reason for item in data.skipped}
    assert reasons == {
        "small.png": "its mask is 10 x 10, the image 96 x 64",
        "nomask.png": "no mask of this name",
        "alone.png": "a mask without image",
        "damaged.png": "empty file",
        "badmask.png": "its mask: not an image, or damaged beyond recognition",
    }


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Training", "TEST"), ("train", "valid")])
@pytest.mark.parametrize("splits_first", [True, False])
def test_splits_of_all_names_are_splits(train: str, val: str, splits_first: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in (train, val):
        for number in range(2):
            write_masked_image(tmp_path / split, f"{number}", rng)
    images, masks = tmp_path, None
    if not splits_first:
        for kind in ("images", "masks"):
            (tmp_path / "set" / kind).mkdir(parents=True)
            for split in (train, val):
                (tmp_path / split / kind).rename(tmp_path / "set" / kind / split)
        images, masks = tmp_path / "set" / "images", tmp_path / "set" / "masks"
    data = read_segmentation_dataset(images, masks)
    assert data.has_split
    assert sorted((pair.split, pair.name) for pair in data.pairs) == [
        (split, f"{split}/{i}.png") for split in ("train", "val") for i in (0, 1)
    ]
    assert all({"train": train, "val": val}[str(pair.split)] in pair.mask.parts for pair in data.pairs)


def test_masks_may_have_a_suffix_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    expected = {}
    for name in ("a", "sub/b", "c_mask"):
        expected[f"{name}.png"] = write_masked_image(tmp_path, name, rng)
        (tmp_path / "masks" / f"{name}.png").rename(tmp_path / "masks" / f"{name}_mask.png")
    data = read_segmentation_dataset(tmp_path, options=MaskOptions(suffix="_mask"))
    assert {pair.name for pair in data.pairs} == set(expected)
    for pair in data.pairs:
        np.testing.assert_array_equal(data.labels(pair), expected[pair.name])
    with pytest.raises(ValueError, match=r"no image in .* has a mask of its name; .*--mask-suffix _mask"):
        read_segmentation_dataset(tmp_path / "images", tmp_path / "masks" / "sub")


def test_invalid_datasets_are_rejected(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"neither train/ and val/ .*--masks DIR"):
        read_segmentation_dataset(tmp_path)
    for index in range(2):
        write_masked_image(tmp_path, f"{index}", rng)
    with pytest.raises(ValueError, match="hold 1 class besides void"):
        read_segmentation_dataset(tmp_path, options=MaskOptions(ignore=("1", "2")))
    with pytest.raises(ValueError, match="--ignore #000000: the masks hold indices"):
        read_segmentation_dataset(tmp_path, options=MaskOptions(ignore=("#000000",)))
    with pytest.raises(ValueError, match="none of the values in --labels"):
        read_segmentation_dataset(tmp_path, options=MaskOptions({77: "x", 78: "y"}))
    with pytest.raises(ValueError, match=r"none of the values in --labels .* for masks of indices write \{0: road\}"):
        read_segmentation_dataset(tmp_path, options=MaskOptions({0x804080: "x", 0xFF: "y"}, in_color=True))
    with pytest.raises(ValueError, match=r"--labels names indices and .*0\.png is in color"):
        read_segmentation_dataset(tmp_path / "images", tmp_path / "images", MaskOptions({0: "x", 1: "y"}))
    with pytest.raises(ValueError, match="more than 255 classes; are they images"):
        read_segmentation_dataset(tmp_path / "images", tmp_path / "images")
    Image.fromarray(BLOCK_COLORS[np.zeros((64, 96), int)]).save(tmp_path / "masks" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png is in color and .*0\.png holds indices"):
        read_segmentation_dataset(tmp_path)
    (tmp_path / "masks" / "1.png").rename(tmp_path / "masks" / "other.png")
    with pytest.raises(ValueError, match="one image with a mask can't be split"):
        read_segmentation_dataset(tmp_path, max_missing=0.9)
    (tmp_path / "masks" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"no image in .* has a mask of its name"):
        read_segmentation_dataset(tmp_path)


def test_binary_masks_of_0_and_255_can_be_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(2):
        mask = write_masked_image(tmp_path, f"{index}", rng)
        Image.fromarray(((mask > 0) * 255).astype(np.uint8)).save(tmp_path / "masks" / f"{index}.png")
    with pytest.raises(ValueError, match="index 255 is void unless --labels names it"):
        read_segmentation_dataset(tmp_path)
    assert read_segmentation_dataset(tmp_path, options=MaskOptions({0: "ground", 255: "thing"})).classes == (
        "ground",
        "thing",
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["indices.png", "colors.png", "indices.tif"])
def test_masks_with_an_orientation_are_turned_as_their_images_are(tmp_path: Path, orientation: int, kind: str) -> None:
    """Both files of a pair hold the same pixels and the same orientation; PNGs and TIFFs keep it in other places."""
    indices = np.zeros((20, 30), np.uint8)
    indices[:5, :8], indices[12:, 20:] = 1, 2  # differs from all of its rotations and mirror images
    palette = np.array([(0, 0, 0), (128, 64, 128), (0, 200, 9)], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    name, suffix = kind.split(".")
    for stem in "ab":
        Image.fromarray(palette[indices]).save(tmp_path / "images" / f"{stem}.png", exif=exif)
        mask = Image.fromarray(indices if name == "indices" else palette[indices])
        mask.save(tmp_path / "masks" / f"{stem}.{suffix}", exif=exif)
    data = read_segmentation_dataset(tmp_path)
    assert not data.skipped
    pair = data.pairs[0]
    colors = np.asarray(open_image(pair.image))
    assert (pair.height, pair.width) == colors.shape[:2]
    order = [
        data.classes.index(f"#{r:02x}{g:02x}{b:02x}" if name == "colors" else str(i))
        for i, (r, g, b) in enumerate(palette)
    ]
    expected = np.zeros(colors.shape[:2], int)
    for number, color in zip(order, palette, strict=True):
        expected[(colors == color).all(2)] = number
    np.testing.assert_array_equal(data.labels(pair), expected)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("drawn_on", ["stored", "upright"])
def test_a_mask_without_orientation_is_that_of_the_pixels_whose_size_it_has(
    tmp_path: Path, orientation: int, drawn_on: str, recwarn: pytest.WarningsRecorder
) -> None:
    """A second pair, whose sides are exchanged, decides for orientations that keep the size."""
    indices = np.zeros((20, 30), np.uint8)
    indices[:5, :8], indices[12:, 20:] = 1, 2
    palette = np.array([(0, 0, 0), (128, 64, 128), (0, 200, 9)], np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name, own in (("a", orientation), ("b", 6)):
        exif = Image.Exif()
        exif[0x0112] = own
        Image.fromarray(palette[indices]).save(tmp_path / "images" / f"{name}.png", exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "images" / f"{name}.png")))
        mask = indices if drawn_on == "stored" else (upright == palette[:, None, None]).all(-1).argmax(0)
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    data = read_segmentation_dataset(tmp_path)
    for pair in data.pairs:
        np.testing.assert_array_equal(palette[data.labels(pair)], np.asarray(open_image(pair.image)))
        assert data.labels(pair).shape == (pair.height, pair.width)
    assert not recwarn.list


def test_a_mask_whose_orientation_nothing_shows_is_upright_and_a_note_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 3
    masks = [write_masked_image(tmp_path, name, rng) for name in "ab"]
    Image.open(tmp_path / "images" / "a.png").save(tmp_path / "images" / "a.png", exif=exif)
    with pytest.warns(Note, match=r"1 images have an EXIF orientation .*first a\.png.* upright"):
        data = read_segmentation_dataset(tmp_path)
    np.testing.assert_array_equal(data.labels(data.pairs[0]), masks[0])
    exif[0x0112] = 6
    Image.open(tmp_path / "masks" / "b.png").save(tmp_path / "masks" / "b.png", exif=exif)
    with pytest.raises(ValueError, match=r"first b.png: its mask is 64 x 96, the image 96 x 64"):
        read_segmentation_dataset(tmp_path)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["gray", "palette"])
def test_index_masks_of_few_bits_keep_their_indices(bits: int, kind: str, tmp_path: Path) -> None:
    """Pillow scales gray samples of 2 and 4 bits to 0..255; the file's own indices are the classes."""
    classes = min(2**bits, 5)
    mask = np.arange(6 * 8).reshape(6, 8) % classes
    content = png_of_indices(mask, bits, kind == "palette")
    for folder, data in (("images", None), ("masks", content)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            path = tmp_path / folder / f"{name}.png"
            path.write_bytes(data) if data else Image.new("RGB", (8, 6)).save(path)
    read = read_segmentation_dataset(tmp_path)
    assert read.classes == tuple(map(str, range(classes)))
    assert read.label_map.ids == tuple(range(classes))
    np.testing.assert_array_equal(read.labels(read.pairs[0]), mask)


def png_of_indices(mask: np.ndarray, bits: int, with_palette: bool) -> bytes:
    """Return a PNG with samples of few bits, written by hand (RFC 2083)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = mask.shape
    rows = ("".join(format(value, f"0{bits}b") for value in row) for row in mask.tolist())
    raw = b"".join(b"\0" + int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, 3 if with_palette else 0, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3 * 2 ** min(bits, 4)))) if with_palette else b""
    body = chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("with_split", [True, False])
def test_a_csv_names_pairs(with_split: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    expected = {f"in/images/{i}.png": write_masked_image(tmp_path / "in", f"{i}", rng) for i in (1, 2, 10, 3)}
    for i in (1, 2, 10, 3):
        (tmp_path / f"in/masks/{i}.png").rename(tmp_path / f"other-{i}.png")
    lines = [f"{name},other-{Path(name).stem}.png" for name in expected]
    heading = "image,mask"
    if with_split:
        heading += ",split"
        lines = [line + end for line, end in zip(lines, (",Train", ",valid", ",Train", ",test"), strict=True)]
    (tmp_path / "pairs.csv").write_text("\n".join([heading, *lines]))
    read_segmentation_dataset(tmp_path / "pairs.csv", max_missing=0)  # an unused split is no fault
    lines.append("gone.png,other-1.png" + ",Train" * with_split)
    (tmp_path / "pairs.csv").write_text("\n".join([heading, *lines]))
    data = read_segmentation_dataset(tmp_path / "pairs.csv")
    order = {True: ["1", "10", "2"], False: ["1", "2", "3", "10"]}[with_split]
    assert [Path(pair.name).stem for pair in data.pairs] == order
    assert [pair.split for pair in data.pairs] == (["train", "train", "val"] if with_split else [None] * 4)
    for pair in data.pairs:
        np.testing.assert_array_equal(data.labels(pair), expected[pair.name])
    reasons = {item.path: item.reason for item in data.skipped}
    expected_reasons = {"gone.png": "no such file"}
    if with_split:
        expected_reasons["in/images/3.png"] = "in neither Train nor valid"
    assert reasons == expected_reasons


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image\na.png\n", "line 1: the columns image and mask are needed"),
        ("image,mask\na.png,\n", "line 2: an image and a mask"),
        ("image,mask\na.png,b.png\na.png,c.png\n", "line 3: a.png is in line 2 too"),
        ("image,mask,split\na.png,b.png,left\n", "line 2: split is train, val or test, got 'left'"),
        ("image,mask\na.png,b.png\n", "no image in .* first a.png: no such file"),
    ],
)
def test_an_error_in_a_csv_of_pairs_names_the_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_segmentation_dataset(tmp_path / "pairs.csv")
    with pytest.raises(ValueError, match="names the masks itself; leave out --masks"):
        read_segmentation_dataset(tmp_path / "pairs.csv", tmp_path)


@pytest.mark.parametrize("in_color", [False, True])
def test_every_value_has_its_class_or_is_void(in_color: bool) -> None:
    names = {3: "a", 7: "b", 60000: "c", 8: "a"}
    options = MaskOptions(names, in_color, ignore=("b",))
    labels = build_label_map([(Path("none.png"), np.array([3, 7]), in_color)], replace(options, colors={3: (1, 2, 3)}))
    values = np.array([[-1, 0, 3, 7, 8], [9, 59999, 60000, 60001, 2**31 - 1]], np.int32)
    expected = [[VOID, VOID, 0, VOID, 0], [VOID, VOID, 1, VOID, VOID]]
    np.testing.assert_array_equal(labels.apply(values), expected)
    assert labels.apply(values).dtype == np.uint8


def test_pixels_are_counted_by_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = [write_masked_image(tmp_path, name, rng) for name in "ab"]
    options = MaskOptions({0: "ground", 1: "thing", 7: "rare"}, ignore=("2",))
    data = read_segmentation_dataset(tmp_path, options=options)
    expected = [[(mask == 0).sum(), (mask == 1).sum(), 0, (mask == 2).sum()] for mask in masks]
    np.testing.assert_array_equal(data.counts(), expected)
    assert data.label_map.ids == (0, 1, 7)
    np.testing.assert_array_equal(data.label_map.unknown(np.array([0, 1, 2, 3, 7, 255])), [0, 0, 0, 1, 0, 0])
