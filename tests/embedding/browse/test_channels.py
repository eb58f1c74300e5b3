"""Browsing of datasets of other channels than 8-bit RGB: queries, contact sheets, the map, chosen channels."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.channel_models import bands, channel_spec, npy, save_channel_encoder, tiff
from PIL import Image
from typer.testing import CliRunner

from gtsa_kit.cli.embed_browse import browse_app
from gtsa_kit.embedding.browse.contact_sheet import TILE
from gtsa_kit.embedding.browse.thumbnails import SourceImages
from gtsa_kit.embedding.browse.vectors import VectorTable, open_vectors
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder

pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> VectorTable:
    folder = tmp_path_factory.mktemp("browse")
    (folder / "scenes").mkdir()
    for seed in range(4):
        (folder / "scenes" / f"{seed}.tif").write_bytes(tiff(bands(seed)))
    (folder / "scenes" / "4.npy").write_bytes(npy(bands(4)))
    embed_folder(folder / "scenes", save_channel_encoder(folder / "model"), folder / "out", EmbedOptions(size=(48, 64)))
    return open_vectors(folder / "out")


def run(*arguments: object) -> str:
    done = CliRunner().invoke(browse_app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_pictures_show_the_chosen_channels(data: VectorTable) -> None:
    spec = channel_spec().preprocessing
    for show, chosen in (("4,3,2", [3, 2, 1]), ("5", [4, 4, 4]), (None, [0, 1, 2])):
        images = SourceImages.of(data, show)
        for seed, row in enumerate(data.rows()):
            mean, std = np.array(spec.mean)[chosen], np.array(spec.std)[chosen]
            expected = 255 * np.clip((bands(seed)[..., chosen] - mean) / (4 * std) + 0.5, 0, 1)
            np.testing.assert_allclose(np.asarray(images.open(row), float), expected, atol=1)
    with pytest.raises(ValueError, match="--show names channels 1 to 5"):
        SourceImages.of(data, "4,3,6")


def test_an_image_is_found_among_the_rows_and_drawn(data: VectorTable, tmp_path: Path) -> None:
    query = tmp_path / "query.tif"
    query.write_bytes(tiff(bands(2), compression="zlib"))
    contact_sheet = tmp_path / "sheet.png"
    text = run("search", data.folder, "--image", query, "--show", "4,3,2", "--contact-sheet", contact_sheet, "--json")
    first, second = json.loads(text)["hits"][:2]
    assert (first["path"], round(first["cosine"], 4)) == ("2.tif", 1.0)
    assert second["cosine"] < 0.9999
    pixels = np.asarray(Image.open(contact_sheet).convert("RGB"), float)
    tile, hit = (pixels[16 : 16 + TILE, left : left + TILE] for left in (16, 32 + TILE))
    np.testing.assert_array_equal(tile, hit)
    assert tile.std() > 10


def test_the_map_holds_pictures_and_no_links_that_browsers_cannot_show(data: VectorTable, tmp_path: Path) -> None:
    run("map", data.folder, "--out", tmp_path / "map.html", "--thumbnails", 3)
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 3
    assert "scenes/" not in text
    assert "4.npy" in text
    run("duplicates", data.folder, "--threshold", 0.1, "--contact-sheet", tmp_path / "pairs.jpg", "--show", 3)
    assert np.asarray(Image.open(tmp_path / "pairs.jpg")).std() > 10
