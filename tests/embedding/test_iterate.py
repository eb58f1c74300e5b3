"""Embedding without files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from gtsa_kit import embed
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding import read_dataset
from gtsa_kit.embedding.input_index import list_inputs, write_input_index
from gtsa_kit.embedding.run import embed_folder
from gtsa_kit.feature_grid import boxes_to_grid

UNREADABLE = ["empty.png", "img2b.jpg", "img11.webp", "sub ü 日本/9.png"]


def test_the_iterator_yields_the_rows_of_a_folder_and_reports_unreadable_images(
    mixed: Path, model: Path, tmp_path: Path
) -> None:
    embed_folder(mixed, model, tmp_path / "out")
    unreadable: list[str] = []
    items = list(embed(mixed, model, on_unreadable=lambda path, reason: unreadable.append(path)))
    assert unreadable == UNREADABLE
    for item, row in zip(items, read_dataset(tmp_path / "out"), strict=True):
        assert item.path == row.path
        np.testing.assert_array_equal(item.features.embedding, row.embedding)
    with pytest.raises(ImageError, match=r"empty\.png"):
        list(embed(mixed, model))


def test_inputs_in_memory_equal_those_on_the_disk(mixed: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(str(images / f"p{i}.jpg") for i in (10, 2, 10, 2, 1)))
    for source in (mixed, tmp_path / "list.txt"):
        inputs = list_inputs(open_source(str(source)))
        index = write_input_index(open_source(str(source)), tmp_path / "index.sqlite")
        assert [(e.name, e.locator, e.reason) for e in inputs] == [
            (e.name, e.locator, e.reason) for e in index.read(0, index.count)
        ]
        assert index.count == len(inputs)
    assert [Path(entry.name).name for entry in inputs] == ["p1.jpg", "p2.jpg", "p10.jpg"]


def test_no_images_is_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images found"):
        list(embed(tmp_path / "empty", model))


def test_a_box_on_a_rotated_image_maps_to_its_bright_patches(model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((96, 160, 3), np.uint8)
    stored[16:48, 96:144] = 255  # x 96..144, y 16..48 of the file
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    row = next(iter(embed(tmp_path / "a.png", model, native=True)))
    u0, v0, u1, v1 = boxes_to_grid(row.transform, np.array([96, 16, 144, 48])).round().astype(int)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    assert (upright[16 * v0 : 16 * v1, 16 * u0 : 16 * u1] == 255).all()
    assert upright.sum() == 255 * 3 * 256 * (v1 - v0) * (u1 - u0)
    assert row.features.feature_map.shape[1:] == (10, 6)
