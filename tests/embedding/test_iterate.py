"""Embedding without files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from gtsa_kit import embed
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding import EmbeddingDataset, read_dataset
from gtsa_kit.embedding.input_index import list_inputs, write_input_index
from gtsa_kit.embedding.options import EmbedOptions
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


def test_images_in_memory_have_the_features_of_their_files(mixed: Path, model: Path) -> None:
    """Paths, images of Pillow and arrays give the rows of the same files in a folder, in the order given."""
    expected = {item.path: item for item in embed(mixed, model, on_unreadable=lambda *_: None)}
    names = ["rotated.jpg", "img3.jpg", "img1.jpg"]
    upright = [np.asarray(ImageOps.exif_transpose(Image.open(mixed / name)).convert("RGB")) for name in names]
    inputs: dict[str, list[object]] = {
        "paths": [str(mixed / names[0]), mixed / names[1], mixed / names[2]],
        "images": [Image.open(mixed / name) for name in names],
        "arrays": list(upright),
    }
    for kind, given in inputs.items():
        items = list(embed(given, model))  # type: ignore[arg-type]
        assert [item.path for item in items] == ([str(path) for path in given] if kind == "paths" else ["0", "1", "2"])
        for item, name in zip(items, names, strict=True):
            row = expected[name]
            np.testing.assert_allclose(item.features.embedding, row.features.embedding, atol=2e-3)
            assert (item.width, item.height) == (row.width, row.height)
            if kind != "arrays":  # an array has no orientation of a file
                np.testing.assert_array_equal(item.transform, row.transform)
    one = [
        next(iter(embed(single, model)))
        for single in (Image.open(mixed / names[1]), upright[1], (x for x in upright[1:2]))
    ]
    for item in one:
        np.testing.assert_allclose(item.features.embedding, expected[names[1]].features.embedding, atol=2e-3)
    gray = upright[1][..., 0]
    same = embed([gray, np.repeat(gray[..., None], 3, axis=2)], model)
    np.testing.assert_array_equal(*(item.features.embedding for item in same))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([np.zeros((8, 8, 3), np.float32)], r"image 0 is an array \(8, 8, 3\) of float32; give"),
        ([np.zeros((8, 8, 4), np.uint8)], r"image 0 is an array \(8, 8, 4\) of uint8"),
        ([Image.new("RGB", (8, 8)), None], "image 1 is of type NoneType; give paths"),
    ],
)
def test_other_things_in_a_list_are_named(images: list[object], words: str, model: Path) -> None:
    with pytest.raises(ValueError, match=words):
        list(embed(images, model))  # type: ignore[arg-type]


def test_unreadable_files_of_a_list_are_reported(mixed: Path, model: Path) -> None:
    good, bad = mixed / "img1.jpg", mixed / "empty.png"
    unreadable: list[tuple[str, str]] = []
    items = list(embed([bad, good, mixed / "gone.jpg"], model, on_unreadable=lambda *entry: unreadable.append(entry)))
    assert [item.path for item in items] == [str(good)]
    assert unreadable == [(str(bad), "empty file"), (str(mixed / "gone.jpg"), "no such file or directory")]
    with pytest.raises(ImageError, match=r"empty\.png"):
        list(embed([bad], model))


def test_a_dataset_is_indexed_as_a_list(images: Path, model: Path, tmp_path: Path) -> None:
    embed_folder(images, model, tmp_path / "out", EmbedOptions(rows_per_shard=6))
    data = EmbeddingDataset(str(tmp_path / "out"))
    paths = [row.path for row in data]
    assert len(paths) == 20
    for index in (0, 5, 6, 19, -1, -14, -20, np.int64(7)):
        assert data[index].path == paths[index]
    for part in (slice(4, 8), slice(-3, None), slice(None, None, -7), slice(30, 40)):
        assert [row.path for row in data[part]] == paths[part]
    for index in (20, -21):
        with pytest.raises(IndexError, match=f"row {index} of 20"):
            data[index]
    with pytest.raises(TypeError):
        data["0"]  # type: ignore[index]
