"""Exact search against brute force, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.clustered_vectors import clustered_vectors, use_small_blocks
from helpers.embedded_dataset import unit64, write_dataset
from PIL import Image
from typer.testing import CliRunner

from gtsa_kit.cli.embed_browse import browse_app
from gtsa_kit.data.image_io import open_image
from gtsa_kit.embedding.browse.contact_sheet import TILE
from gtsa_kit.embedding.browse.search import embed_query, inner_products, open_model, search
from gtsa_kit.embedding.browse.vectors import open_vectors
from gtsa_kit.export import load
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.weights import save_encoder


@pytest.fixture(params=["small blocks", "one block"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small blocks":
        use_small_blocks(monkeypatch)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_search_is_brute_force_with_ties_in_row_order(dtype: type, tmp_path: Path) -> None:
    rows = clustered_vectors(700, 16).astype(dtype)
    data = open_vectors(write_dataset(tmp_path / "d", rows, part=311))
    unit = unit64(rows)
    for query, exclude, top in ((3, None, 10), (5, 5, 40), (100, 100, 1), (200, None, 1000)):
        cosine = np.round(unit @ unit[query], 12)
        if exclude is not None:
            cosine[exclude] = np.nan
        expected = [i for i in np.lexsort((np.arange(700), -cosine)) if np.isfinite(cosine[i])][:top]
        result = search(data, rows[query].astype(np.float32), top, exclude)
        hits = result.hits
        assert [row.index for row in result.invalid] == [7, 11, 13]
        assert [hit.row.index for hit in hits] == expected
        assert [hit.row.path for hit in hits] == [f"sub/p{i}.jpg" for i in expected]
        np.testing.assert_allclose([hit.cosine for hit in hits], cosine[expected], atol=2e-12)


def test_invalid_queries(tmp_path: Path) -> None:
    data = open_vectors(write_dataset(tmp_path / "d", clustered_vectors(40, 16)))
    with pytest.raises(ValueError, match="16 numbers, the query 4"):
        search(data, np.ones(4), 3)
    for invalid in (np.zeros(16), np.full(16, np.nan)):
        with pytest.raises(ValueError, match="no direction"):
            search(data, invalid, 3)
    with pytest.raises(ValueError, match=r"did you mean sub/p4.jpg"):
        data.find("p4.jpg")


def test_search_in_one_row(tmp_path: Path) -> None:
    data = open_vectors(write_dataset(tmp_path / "d", np.ones((1, 4), dtype=np.float32)))
    assert [hit.cosine for hit in search(data, np.ones(4), 10).hits] == [1.0]
    assert search(data, np.ones(4), 10, exclude=0).hits == []


@pytest.fixture(scope="module")
def embedded(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset of the twenty images from a real model, and that model."""
    run = tmp_path_factory.mktemp("search") / "run"
    run.mkdir()
    torch.manual_seed(0)
    save_encoder(run, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    runner = load(run, "cpu")
    names = [f"p{i}.jpg" for i in range(20)]
    rows = np.stack([embed_query(runner, open_image(images / name)) for name in names])
    job = {"model": {"path": str(run)}, "resize": {"kind": "fixed", "size": [224, 224], "patch": 16}}
    data = run.parent / "data"
    return write_dataset(data, rows, names, part=7, model_manifest=runner.manifest, source=images, **job), run


def test_search_for_an_image(embedded: tuple[Path, Path], images: Path, tmp_path: Path) -> None:
    contact_sheet = tmp_path / "new" / "sheet.png"
    image = images / "p6.jpg"
    done = CliRunner().invoke(
        browse_app, ["search", str(embedded[0]), "--image", str(image), "--contact-sheet", str(contact_sheet)]
    )
    assert done.exit_code == 0, done.output
    first = next(line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["1"])
    assert first == ["1", "1.0000", "p6.jpg"]
    pixels = np.asarray(Image.open(contact_sheet).convert("RGB"), dtype=int)
    query, hit = (pixels[16 : 16 + TILE, left : left + TILE] for left in (16, 32 + TILE))
    assert np.abs(query - hit).max() == 0  # the query and its first hit
    assert query.std() > 10


def test_search_for_a_row_whose_images_are_missing(embedded: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = embedded
    rows = open_vectors(folder).vectors(range(20))
    names = [f"nowhere/{i} ünï 日本\n.jpg" for i in range(20)]
    data = write_dataset(tmp_path / "d", rows, names, source=tmp_path / "gone")
    command = ["search", str(data), "--row", names[4], "--top", "3", "--json"]
    done = CliRunner().invoke(browse_app, command)
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["query"] == names[4]
    unit = unit64(rows)
    expected = [i for i in np.argsort(-(unit @ unit[4])) if i != 4][:3]
    assert [hit["path"] for hit in printed["hits"]] == [names[i] for i in expected]
    pixels = np.asarray(Image.open(data / "search.jpg").convert("RGB"), dtype=int)
    assert np.abs(pixels[20:90, 20:200] - 0xD4).max() < 5  # a gray square, no error


def test_another_model_is_refused(embedded: tuple[Path, Path], images: Path, tmp_path: Path) -> None:
    save_encoder(tmp_path, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    data = open_vectors(embedded[0])
    with pytest.raises(ValueError, match="weights"):
        open_model(data, tmp_path)
    moved = write_dataset(
        tmp_path / "d", data.vectors(range(20)), model_manifest=data.manifest, model={"path": str(tmp_path / "gone")}
    )
    with pytest.raises(ValueError, match="gone does not exist; name the model of these vectors with --model"):
        open_model(open_vectors(moved))
    command = ["search", str(moved), "--image", str(images / "p3.jpg"), "--model", str(embedded[1]), "--json"]
    done = CliRunner().invoke(browse_app, command)
    assert json.loads(done.stdout)["hits"][0]["path"] == "sub/p3.jpg"


def test_products_by_faiss_are_the_same() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    rng = np.random.default_rng(0)
    rows, unit = rng.standard_normal((1000, 64), dtype=np.float32), rng.standard_normal(64, dtype=np.float32)
    exact = rows.astype(np.float64) @ unit.astype(np.float64)
    np.testing.assert_allclose(inner_products(rows, unit), exact, atol=1e-4)
    np.testing.assert_allclose(inner_products(rows[::2], unit), exact[::2], atol=1e-4)
