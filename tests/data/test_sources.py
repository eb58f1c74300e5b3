"""One set of images, read from every kind of source."""

import functools
import http.server
import os
import pickle
import random
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gtsa_kit.data.entries import natural_key
from gtsa_kit.data.image_files import find_images
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.input_index import describe_changes, write_input_index


def read_all(where: str | Path, tmp_path: Path) -> dict[str, bytes]:
    """Return names in order, with their content."""
    source = open_source(str(where))
    listing = write_input_index(source, tmp_path / "listing.sqlite")
    return {entry.name: source.read(entry.locator) for entry in listing.read(0, listing.count)}


@pytest.fixture
def expected(images: Path) -> dict[str, bytes]:
    return {f"p{i}.jpg": (images / f"p{i}.jpg").read_bytes() for i in range(20)}


def test_every_kind_of_source_gives_the_same_images(images: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    paths = list(images.iterdir())
    random.Random(0).shuffle(paths)
    with tarfile.open(tmp_path / "all.tar", "w") as tar, zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        for path in paths:
            tar.add(path, path.name)
            packed.write(path, path.name)
        tar.add(images / "p0.jpg", "p0.cls")  # WebDataset's labels
    (tmp_path / "list.txt").write_text("\n".join(path.name for path in paths) + "\n\n")
    pq.write_table(pa.table({"path": [str(path) for path in paths], "label": [0] * 20}), tmp_path / "list.parquet")
    memory = fsspec.filesystem("memory")
    for path in paths:
        memory.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    ways = [images, images / "*.jpg", tmp_path / "all.tar", tmp_path / "all.zip", "memory://bucket"]
    for way in [*ways, "memory://bucket/*.jpg"]:
        content = read_all(way, tmp_path)
        assert list(content) == list(expected), way
        assert content == expected, way
    assert list(read_all(tmp_path / "list.parquet", tmp_path).values()) == list(expected.values())
    os.replace(tmp_path / "list.txt", images.parent / "list.txt")  # paths count from the list's folder...
    listed = images.parent / "list.txt"
    listed.write_text("\n".join(f"{images.name}/{path.name}" for path in paths))
    assert list(read_all(listed, tmp_path).values()) == list(expected.values())


@pytest.fixture
def server(images: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(images))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_over_http(server: str, expected: dict[str, bytes], tmp_path: Path) -> None:
    assert read_all(f"{server}/", tmp_path) == expected
    (tmp_path / "urls.txt").write_text(f"{server}/p10.jpg\n{server}/p2.jpg\n{server}/no.jpg\n")
    source = open_source(str(tmp_path / "urls.txt"))
    listing = write_input_index(source, tmp_path / "listing.sqlite")
    entries = list(listing.read(0, 3))
    assert [entry.name.rsplit("/", 1)[1] for entry in entries] == ["no.jpg", "p2.jpg", "p10.jpg"]
    assert source.read(entries[1].locator) == expected["p2.jpg"]
    with pytest.raises(ImageError, match="can't be read"):
        source.read(entries[0].locator)


def test_natural_order_sorts_text_and_numbers() -> None:
    def parts(name: str) -> tuple[list[tuple[int, int, str]], str]:
        pieces = re.split(r"([0-9]+)", name)
        return [(0, int(piece), "") if i % 2 else (1, 0, piece) for i, piece in enumerate(pieces) if piece], name

    rng = random.Random()
    letters = ["a", "b", "0", "1", "2", "10", "/", "é", ".", "007", "\udce9", "😀"]
    names = list({"".join(rng.choice(letters) for _ in range(6)) for _ in range(3000)})
    assert sorted(names, key=natural_key) == sorted(names, key=parts)
    paths = [Path(name) for name in names if Path(name).as_posix() == name]
    assert sorted(paths, key=natural_key) == sorted(paths, key=lambda path: parts(path.as_posix()))


def test_links_loops_hidden_and_unusual_names(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    content = (images / "p0.jpg").read_bytes()
    for path in (folder / "a" / "b" / "x.JPG", folder / ".hidden" / "y.jpg", folder / "a" / ".z.jpg"):
        path.write_bytes(content)
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "other").symlink_to(folder / "a")
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.jpg")
    odd = os.fsdecode(b"caf\xe9.jpg")
    (folder / odd).write_bytes(content)
    source = open_source(str(folder))
    listing = write_input_index(source, tmp_path / "l")
    entries = {entry.name: entry.locator for entry in listing.read(0, listing.count)}
    assert list(entries) == ["a/b/x.JPG", "caf\\xe9.jpg", "gone.jpg", "pipe.jpg"]
    assert source.read(entries["caf\\xe9.jpg"]) == content
    for name in ("gone.jpg", "pipe.jpg"):
        with pytest.raises((ImageError, OSError)):
            source.read(entries[name])
    assert {os.fsencode(path) for path in find_images(folder).paths} >= {os.fsencode(folder / odd)}


def test_a_listing_is_sorted_and_unique(images: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join([str(images / "p1.jpg")] * 3 + [str(images / "p0.jpg")]))
    first = write_input_index(open_source(str(tmp_path / "list.txt")), tmp_path / "a")
    assert first.count == 2
    again = write_input_index(open_source(str(tmp_path / "list.txt")), tmp_path / "b")
    assert again.digest == first.digest
    (tmp_path / "list.txt").write_text(str(images / "p0.jpg"))
    other = write_input_index(open_source(str(tmp_path / "list.txt")), tmp_path / "c")
    assert other.digest != first.digest
    assert "1 removed" in describe_changes(first.path, other.path)


def test_invalid_archives_and_missing_sources(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for path in sorted(images.iterdir()):
            tar.add(path, path.name)
    whole = (tmp_path / "all.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    entries = list(open_source(str(tmp_path / "cut.tar")).entries())
    assert any(entry.reason for entry in entries)
    assert len(entries) > 5
    (tmp_path / "bad.zip").write_bytes(b"hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.tar.gz").write_bytes(b"")
    for where, message in (
        (tmp_path / "bad.zip", "not a readable zip"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "*.gif", "nothing matches"),
        (tmp_path / "x.tar.gz", "compressed as a whole"),
        (tmp_path / "empty", "no images"),
        ("nonsense://x", "nonsense"),
    ):
        with pytest.raises(ValueError, match=message):
            write_input_index(open_source(str(where)), tmp_path / "l")


def test_a_damaged_member_of_a_zip_is_an_image_error(images: Path, tmp_path: Path) -> None:
    content = (images / "p0.jpg").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", content)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    start = data.index(b"a.jpg") + len(b"a.jpg")
    data[start : start + 40] = b"\xff" * 40
    (tmp_path / "a.zip").write_bytes(data)
    source = open_source(str(tmp_path / "a.zip"))
    with pytest.raises(ImageError, match="can't be unpacked"):
        source.read("a.jpg")
    with pytest.raises(ImageError, match="no longer in"):
        source.read("b.jpg")


def test_sources_can_be_pickled(images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(images / "p0.jpg", "p0.jpg")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/pickled/p0.jpg", (images / "p0.jpg").read_bytes())
    for where in (str(images), str(images / "*.jpg"), str(tmp_path / "a.zip"), "memory://pickled"):
        source = pickle.loads(pickle.dumps(open_source(where)))
        entry = next(entry for entry in source.entries() if entry.name == "p0.jpg")
        assert source.read(entry.locator) == (images / "p0.jpg").read_bytes()
