"""Segmentation datasets: matching of images and masks, label maps, and tiles."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import BLOCK_COLORS, write_masked_image
from PIL import Image

from gtsa_kit.data.image_io import open_image
from gtsa_kit.data.label_map import VOID, MaskOptions, read_mask_options
from gtsa_kit.data.labeled_masks import read_segmentation_dataset, tile_boxes


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
    with pytest.raises(ValueError, match="none of the values in --colors"):
        read_segmentation_dataset(tmp_path, options=MaskOptions({77: "x", 78: "y"}))
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "[]"),
        ("a.json", "{"),
        ("a.json", '{"red": "x"}'),
        ("a.json", "{}"),
        ("a.json", '{"#000000": "x", "1": "y"}'),
        ("a.csv", "name,r,g\nx,1,2"),
        ("a.csv", "name,r,g,b\nx,1,2,256"),
        ("a.csv", "name,r,g,b\nx,1,2"),
    ],
)
def test_an_invalid_table_of_colors_is_rejected(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"a\.(json|csv)"):
        read_mask_options(tmp_path / name, [])


def test_binary_masks_of_0_and_255_can_be_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(2):
        mask = write_masked_image(tmp_path, f"{index}", rng)
        Image.fromarray(((mask > 0) * 255).astype(np.uint8)).save(tmp_path / "masks" / f"{index}.png")
    with pytest.raises(ValueError, match="index 255 is void unless --colors names it"):
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
