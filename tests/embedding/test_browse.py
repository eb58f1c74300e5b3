import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.embedded_dataset import unit64, write_dataset
from PIL import Image
from typer.testing import CliRunner

from gtsa_kit.cli.embed_browse import browse_app
from gtsa_kit.embedding.browse import duplicates, vectors
from gtsa_kit.embedding.browse.duplicates import find_duplicates
from gtsa_kit.embedding.browse.search import embed_query, inner_products, open_model, search
from gtsa_kit.embedding.browse.thumbnails import SourceImages
from gtsa_kit.embedding.browse.vectors import open_vectors
from gtsa_kit.export import load

CPU = torch.device("cpu")


def clustered(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors of many lengths in clusters, with exact copies, scaled copies, a zero row, NaN and infinity."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count // 8 + 1, dim))[rng.integers(0, count // 8 + 1, count)]
    rows = rows + rng.uniform(0, 0.4, (count, 1)) * rng.standard_normal((count, dim))
    rows[count // 2 :: 17] = rows[3]
    rows[count // 3 :: 41] = 2 * rows[5]
    found = (rows * rng.uniform(0.1, 30, (count, 1))).astype(np.float32)
    found[7], found[11, 0], found[13, 1] = 0, np.nan, np.inf
    return found


@pytest.fixture(params=["small blocks", "one block"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small blocks":
        monkeypatch.setattr(vectors, "BLOCK_BYTES", 4 * 16 * 37)
        monkeypatch.setattr(duplicates, "TILE", 23)
        monkeypatch.setattr(duplicates, "SHELF_BYTES", 4 * 16 * 200)
        monkeypatch.setattr(duplicates, "PAIRS", 50)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_search_is_brute_force_with_ties_in_row_order(dtype: type, tmp_path: Path) -> None:
    rows = clustered(700, 16).astype(dtype)
    data = open_vectors(write_dataset(tmp_path / "d", rows, part=311))
    unit = unit64(rows)
    for query, leave_out, top in ((3, None, 10), (5, 5, 40), (100, 100, 1), (200, None, 1000)):
        cosine = np.round(unit @ unit[query], 12)
        if leave_out is not None:
            cosine[leave_out] = np.nan
        wanted = [i for i in np.lexsort((np.arange(700), -cosine)) if np.isfinite(cosine[i])][:top]
        hits = search(data, rows[query].astype(np.float32), top, leave_out)
        assert [hit.row.index for hit in hits] == wanted
        assert [hit.row.path for hit in hits] == [f"sub/p{i}.jpg" for i in wanted]
        np.testing.assert_allclose([hit.cosine for hit in hits], cosine[wanted], atol=2e-12)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("threshold", [0.95, 0.99, 1.0])
def test_duplicates_are_brute_force(threshold: float, tmp_path: Path) -> None:
    rows = clustered(600, 16, seed=1)
    rng = np.random.default_rng(2)
    sizes = [(int(w), int(h)) for w, h in rng.integers(1, 4, (600, 2))]
    data = open_vectors(write_dataset(tmp_path / "d", rows, pixels=sizes, part=250))
    found = find_duplicates(data, threshold, CPU)
    unit = unit64(rows)
    cosine = np.round(unit @ unit.T, 11)
    left, groups = set(range(600)), []
    for start in range(600):  # flood fill
        if start not in left:
            continue
        group, todo = [], [start]
        left.discard(start)
        while todo:
            i = todo.pop()
            group.append(i)
            near = [j for j in sorted(left) if cosine[i, j] >= threshold]
            todo += near
            left -= set(near)
        if len(group) > 1:
            groups.append(sorted(group))
    assert [sorted(member.row.index for member in group) for group in found.groups] == groups
    assert found.unsound == 3
    dropped = 0
    for group in found.groups:
        first, others = group[0].row, group[1:]
        assert all(first.width * first.height >= member.row.width * member.row.height for member in others)
        assert [member.row.index for member in others] == sorted(member.row.index for member in others)
        for member in others:
            assert member.cosine == pytest.approx(cosine[first.index, member.row.index], abs=1e-10)
            assert member.drop == (cosine[first.index, member.row.index] >= threshold)
            dropped += member.drop
    assert found.droppable == dropped > 0


def test_many_copies_are_one_group_in_little_memory(tmp_path: Path) -> None:
    data = open_vectors(write_dataset(tmp_path / "d", np.ones((9000, 4), dtype=np.float16), part=5000))
    found = find_duplicates(data, 1.0, CPU)
    assert [len(group) for group in found.groups] == [9000]
    assert found.droppable == 8999


def test_what_is_no_dataset_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no vectors"):
        open_vectors(tmp_path / "empty")
    with pytest.raises(ValueError, match="no rows"):
        open_vectors(write_dataset(tmp_path / "none", np.zeros((0, 4), dtype=np.float32)))
    cut = write_dataset(tmp_path / "cut", np.ones((50, 4), dtype=np.float32))
    part = cut / "vectors" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"part-00000.parquet is damaged.*--resume"):
        open_vectors(cut)
    mixed = write_dataset(tmp_path / "mixed", np.ones((5, 4), dtype=np.float32))
    other = write_dataset(tmp_path / "other", np.ones((5, 8), dtype=np.float32))
    (other / "vectors" / "part-00000.parquet").rename(mixed / "vectors" / "part-00001.parquet")
    with pytest.raises(ValueError, match="several models"):
        open_vectors(mixed)


def test_queries_that_cannot_be(tmp_path: Path) -> None:
    data = open_vectors(write_dataset(tmp_path / "d", clustered(40, 16)))
    with pytest.raises(ValueError, match="16 numbers, the query 4"):
        search(data, np.ones(4), 3)
    for bad in (np.zeros(16), np.full(16, np.nan)):
        with pytest.raises(ValueError, match="no direction"):
            search(data, bad, 3)
    with pytest.raises(ValueError, match=r"did you mean sub/p4.jpg"):
        data.find("p4.jpg")


def test_one_row(tmp_path: Path) -> None:
    data = open_vectors(write_dataset(tmp_path / "d", np.ones((1, 4), dtype=np.float32)))
    assert [hit.cosine for hit in search(data, np.ones(4), 10)] == [1.0]
    assert search(data, np.ones(4), 10, leave_out=0) == []
    assert find_duplicates(data, 0.9, CPU).groups == []


@pytest.fixture(scope="module")
def embedded(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset of the twenty images, by a real model, and that model."""
    from gtsa_kit.data.image_io import open_image
    from gtsa_kit.models.encoder import Encoder
    from gtsa_kit.models.weights import save_encoder

    run = tmp_path_factory.mktemp("look") / "run"
    run.mkdir()
    torch.manual_seed(0)
    save_encoder(run, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    runner = load(run, "cpu")
    names = [f"p{i}.jpg" for i in range(20)]
    rows = np.stack([embed_query(runner, open_image(images / name)) for name in names])
    where = {"source": str(images), "model": {"path": str(run)}, "resize": {"kind": "fixed", "size": [224, 224]}}
    return write_dataset(run.parent / "data", rows, names, part=7, about=runner.manifest, **where), run


def test_search_for_a_image(embedded: tuple[Path, Path], images: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    image = images / "p6.jpg"
    done = CliRunner().invoke(browse_app, ["search", str(embedded[0]), "--image", str(image), "--sheet", str(sheet)])
    assert done.exit_code == 0, done.output
    first = next(line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["1"])
    assert first == ["1", "1.0000", "p6.jpg"]
    pixels = np.asarray(Image.open(sheet).convert("RGB"), dtype=int)
    assert np.abs(pixels[10:210, 10:210] - pixels[10:210, 220:420]).max() == 0  # the query and its first hit
    assert pixels[10:210, 10:210].std() > 10


def test_search_for_a_row_whose_neighbors_are_gone(embedded: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = embedded
    rows = open_vectors(folder).vectors(range(20))
    names = [f"nowhere/{i} ünï 日本\n.jpg" for i in range(20)]
    data = write_dataset(tmp_path / "d", rows, names, source=str(tmp_path / "gone"))
    asked = ["search", str(data), "--row", names[4], "--top", "3", "--json"]
    done = CliRunner().invoke(browse_app, asked)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["query"] == names[4]
    unit = unit64(rows)
    wanted = [i for i in np.argsort(-(unit @ unit[4])) if i != 4][:3]
    assert [hit["path"] for hit in said["hits"]] == [names[i] for i in wanted]
    pixels = np.asarray(Image.open(data / "search.jpg").convert("RGB"), dtype=int)
    assert np.abs(pixels[20:90, 20:200] - 0xD4).max() < 5  # a gray square, no error


def test_another_model_is_refused(embedded: tuple[Path, Path], images: Path, tmp_path: Path) -> None:
    from gtsa_kit.models.encoder import Encoder
    from gtsa_kit.models.weights import save_encoder

    save_encoder(tmp_path, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    data = open_vectors(embedded[0])
    with pytest.raises(ValueError, match="weights"):
        open_model(data, tmp_path, "cpu")
    moved = write_dataset(
        tmp_path / "d", data.vectors(range(20)), about=data.manifest, model={"path": str(tmp_path / "gone")}
    )
    with pytest.raises(ValueError, match="gone does not exist; name the model of these vectors with --model"):
        open_model(open_vectors(moved))
    asked = ["search", str(moved), "--image", str(images / "p3.jpg"), "--model", str(embedded[1]), "--json"]
    done = CliRunner().invoke(browse_app, asked)
    assert json.loads(done.stdout)["hits"][0]["path"] == "sub/p3.jpg"


def test_duplicates_command_on_an_unfinished_dataset(tmp_path: Path, images: Path) -> None:
    rows = np.eye(20, dtype=np.float32)
    rows[15] = rows[4]
    names = [f"p{i}.jpg" for i in range(20)]
    rows = np.concatenate([rows, rows[:3]])  # a part that no journal knows of
    journal = {"shards": 2, "complete": False}
    data = write_dataset(tmp_path / "d", rows, [*names, *"abc"], part=10, journal=journal, source=str(images))
    done = CliRunner().invoke(browse_app, ["duplicates", str(data), "--sheet", str(tmp_path / "sheet.jpg")])
    assert done.exit_code == 0, done.output
    assert "1 groups of 2 images; 1 could be dropped" in done.stdout
    assert "not finished" in done.stderr
    assert Image.open(tmp_path / "sheet.jpg").width > 1000
    for options in (["--threshold", "0"], ["--threshold", "nan"], ["--sheet", "x.gif"]):
        done = CliRunner().invoke(browse_app, ["duplicates", str(data), *options])
        assert isinstance(done.exception, ValueError)


def test_images_in_archives_lists_and_globs(images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(images / "p1.jpg", "in/p1.jpg")
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(images / "p1.jpg", "in/p1.jpg")
    (tmp_path / "list.txt").write_text("x")
    wanted = Image.open(images / "p1.jpg").size
    inside, absolute = "in/p1.jpg", str(images / "p1.jpg")
    for source, path in (
        (tmp_path / "a.zip", inside),
        (tmp_path / "a.tar", inside),
        (tmp_path / "list.txt", absolute),
        (images / "*.jpg", "p1.jpg"),
    ):
        opened = SourceImages(str(source))
        assert opened.open(path).size == wanted
        assert list(opened.thumbnails([path, "none.jpg"], 8))[1] is None
    assert SourceImages("s3://bucket/x").file("p.jpg") is None


def test_products_by_faiss_are_the_same() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    rng = np.random.default_rng(0)
    rows, unit = rng.standard_normal((1000, 64), dtype=np.float32), rng.standard_normal(64, dtype=np.float32)
    exact = rows.astype(np.float64) @ unit.astype(np.float64)
    np.testing.assert_allclose(inner_products(rows, unit), exact, atol=1e-4)
    np.testing.assert_allclose(inner_products(rows[::2], unit), exact[::2], atol=1e-4)
