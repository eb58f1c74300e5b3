"""Images of rows, opened again from every kind of source: the image that was embedded, or none."""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.embedded_dataset import write_dataset
from PIL import Image
from typer.testing import CliRunner

from gtsa_kit.cli.embed_browse import browse_app
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.embedding.browse.contact_sheet import TILE
from gtsa_kit.embedding.browse.thumbnails import SourceImages
from gtsa_kit.embedding.browse.vectors import ImageRow, open_vectors
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder
from gtsa_kit.files import sha256_of


def row_of(path: str, file: Path, stamp: str = "") -> ImageRow:
    width, height = Image.open(file).size
    return ImageRow(0, path, width, height, sha256_of(file), stamp)


def test_images_in_archives_lists_and_globs(images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(images / "p1.jpg", "in/p1.jpg")
        archive.write(images / "p2.jpg", "in/other.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(images / "p1.jpg", "in/p1.jpg")
        tar.add(images / "p2.jpg", "in/other.jpg")
    (tmp_path / "list.txt").write_text("x")
    file, other = images / "p1.jpg", images / "p2.jpg"
    for source, path, other_path in (
        (tmp_path / "a.zip", "in/p1.jpg", "in/other.jpg"),
        (tmp_path / "a.tar", "in/p1.jpg", "in/other.jpg"),
        (tmp_path / "*.zip", "a.zip/in/p1.jpg", "a.zip/in/other.jpg"),
        (tmp_path / "list.txt", str(file), str(other)),
        (images / "*.jpg", "p1.jpg", "p2.jpg"),
    ):
        opened = SourceImages([str(source)])
        assert opened.open(row_of(path, file)).size == Image.open(file).size
        rows = [row_of(path, file), row_of("none.jpg", file), row_of(other_path, file)]
        assert [thumbnail.problem for thumbnail in opened.thumbnails(rows, 8)] == ["", "missing", "changed"]
        assert opened.states(rows) == ["same", "missing", "changed"]
    remote = SourceImages(["s3://bucket/x"])
    assert [thumbnail.problem for thumbnail in remote.thumbnails([row_of("p1.jpg", file)], 8)] == ["remote"]


def test_damaged_members_of_archives_are_image_errors(images: Path, tmp_path: Path) -> None:
    content = (images / "p1.jpg").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("p1.jpg", content)
    damaged = bytearray((tmp_path / "a.zip").read_bytes())
    for i in range(60, 200):
        damaged[i] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(damaged)
    (tmp_path / "b.tar").write_bytes(b"no tar")
    for name in ("a.zip", "b.tar"):
        with pytest.raises(ImageError):
            SourceImages([str(tmp_path / name)]).open(row_of("p1.jpg", images / "p1.jpg"))


@pytest.fixture
def project(images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with four images and their dataset, which was made with relative paths."""
    here = tmp_path / "here"
    shutil.copytree(model, here / "model")
    (here / "photos").mkdir()
    for i in range(4):
        shutil.copy2(images / f"p{i}.jpg", here / "photos" / f"p{i}.jpg")
    monkeypatch.chdir(here)
    embed_folder("photos", "model", "data", EmbedOptions(size=(32, 32)))
    return here


def problems_of(data: Path) -> list[str]:
    """Return, for each row, "" if its own image is shown, or the problem; assert that no other image is."""
    table = open_vectors(data)
    images, rows = SourceImages(table.sources), table.rows()
    for row, thumbnail in zip(rows, images.thumbnails(rows, 500), strict=True):
        if thumbnail.image is not None:
            assert thumbnail.image.size == (row.width, row.height) or max(thumbnail.image.size) == 500
    problems = [thumbnail.problem for thumbnail in images.thumbnails(rows, 16)]
    assert [state.value for state in images.states(rows)] == [problem or "same" for problem in problems]
    links = [link for link, _ in images.links(rows, data / "map.html")]
    assert [link is None for link in links] == [bool(problem) for problem in problems]
    return problems


def test_a_dataset_made_with_relative_paths_shows_its_own_images_from_anywhere(
    project: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "photos").mkdir(parents=True)
    for i in range(4):  # other images of the same names
        shutil.copy2(images / f"p{i + 5}.jpg", elsewhere / "photos" / f"p{i}.jpg")
    monkeypatch.chdir(elsewhere)
    assert problems_of(project / "data") == [""] * 4
    command = ["search", str(project / "data"), "--image", str(project / "photos" / "p1.jpg"), "--device", "cpu"]
    command += ["--contact-sheet", "sheet.png"]
    done = CliRunner().invoke(browse_app, command)
    assert done.exit_code == 0, done.output
    pixels = np.asarray(Image.open("sheet.png").convert("RGB"), dtype=int)
    query, hit = (pixels[16 : 16 + TILE, left : left + TILE] for left in (16, 32 + TILE))
    assert np.abs(query - hit).max() == 0  # the query and its first hit

    shutil.move(project, tmp_path / "moved")
    assert problems_of(tmp_path / "moved" / "data") == [""] * 4
    shutil.copytree(tmp_path / "moved", tmp_path / "copied", copy_function=shutil.copyfile)  # other times
    shutil.rmtree(tmp_path / "moved")
    assert problems_of(tmp_path / "copied" / "data") == [""] * 4
    (elsewhere / "data").mkdir()
    shutil.copytree(tmp_path / "copied" / "data", elsewhere / "data", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "copied")
    assert problems_of(elsewhere / "data") == ["changed"] * 4  # the images at the same relative place are other ones


def test_changed_and_missing_images_are_said_everywhere(project: Path, images: Path) -> None:
    names = [f"p{i}.jpg" for i in range(4)]
    write_dataset(project / "equal", np.ones((4, 8), dtype=np.float32), names, source=project / "photos")
    shutil.copy(images / "p9.jpg", "photos/p1.jpg")
    Path("photos/p2.jpg").unlink()
    status = os.stat("photos/p3.jpg")
    Path("photos/p3.jpg").write_bytes(b"x" * status.st_size)
    assert problems_of(project / "data") == ["", "changed", "missing", "changed"]
    line = "are not shown: 2 changed since embedding, 1 missing"
    for command in (["search", "data", "--row", "p0.jpg"], ["map", "data"]):
        done = CliRunner().invoke(browse_app, command)
        assert done.exit_code == 0, done.output
        assert f"3 of 4 images {line}" in done.stderr
    done = CliRunner().invoke(browse_app, ["duplicates", "equal", "--contact-sheet", "sheet.png"])
    assert f"3 of 4 images {line}" in done.stderr
    advice = [line.split()[-2] for line in done.stdout.splitlines() if line.endswith(".jpg")]
    assert advice == ["keep", "changed", "missing", "changed"]
    assert "0 could be dropped" in done.stdout
    assert "3 are changed or missing now" in done.stdout
    gray = np.asarray(Image.open("sheet.png").convert("RGB"), dtype=int)[20:330, 356:660]
    assert (np.abs(gray - 0xD4).max(axis=2) == 0).mean() > 0.95  # a square with a word
    os.utime("photos/p3.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time are the same, the digest not
    table = open_vectors(project / "data")
    thumbnails = SourceImages(table.sources).thumbnails(table.rows(), 16)
    assert [thumbnail.problem for thumbnail in thumbnails] == ["", "changed", "missing", "changed"]


def test_a_job_continues_when_its_images_and_its_folder_have_moved(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree("data")
    shutil.copy2("photos/p0.jpg", "photos/p9.jpg")
    Path("photos/p8.jpg").write_bytes(b"no image")
    options = {"size": (32, 32), "rows_per_shard": 2}
    with pytest.raises(RuntimeError):
        embed_folder("photos", "model", "data", EmbedOptions(**options, fail_on_unreadable=True))
    shutil.move(project, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    summary = embed_folder("moved/photos", "moved/model", "moved/data", EmbedOptions(**options, resume=True))
    assert (summary.rows, summary.errors, summary.processed) == (5, 1, 2)
    assert problems_of(tmp_path / "moved" / "data") == [""] * 5
