import os
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.image_samples import encoded, jpeg, scene
from PIL import Image

from gtsa_kit.data.entries import Entry
from gtsa_kit.data.image_files import bounded_map, find_images, validate_images
from gtsa_kit.data.image_io import open_image
from gtsa_kit.data.sources import FileSource

JPEG = encoded(scene(), "JPEG")


def validate_files(paths: Iterable[Path], **options: Any) -> list[Entry]:
    source = FileSource(Path(), list(paths))
    return validate_images(source, source.entries(), **options)


# --- many files ------------------------------------------------------------------------------------------------------


def test_validation_keeps_the_order(tmp_path):
    paths = [tmp_path / f"{i}.jpg" for i in range(60)]
    bad = {3, 4, 17, 40, 59}
    for i, path in enumerate(paths):
        path.write_bytes(b"rubbish" if i in bad else JPEG)
    ticks = []
    listed = validate_files(paths, on_checked=lambda: ticks.append(None))
    assert [entry.locator for entry in listed] == [str(paths[i]) for i in sorted(bad)]
    assert len(ticks) == len(paths)


def test_validation_applies_the_limit(tmp_path):
    assert len(validate_files([jpeg(tmp_path / "a.jpg")], max_pixels=10)) == 1


def test_bounded_map_limits_pending_items():
    drawn, done, most = 0, 0, 0
    lock = threading.Lock()

    def items():
        nonlocal drawn
        for i in range(100):
            drawn += 1
            yield i

    def work(i):
        nonlocal most
        with lock:
            most = max(most, drawn - done)
        time.sleep(0.002 if i % 7 else 0.01)  # some are slow, so that later ones are ready first
        return i * i

    with ThreadPoolExecutor(4) as pool:
        for i, result in enumerate(bounded_map(pool, work, items(), window=8)):
            assert result == i * i
            done += 1
            assert drawn - done <= 8
    assert done == 100
    assert most <= 8


def test_bounded_map_cancels_when_closed():
    begun = []
    with ThreadPoolExecutor(1) as pool:
        results = bounded_map(pool, begun.append, range(1000), window=4)
        next(results)
        results.close()
    assert len(begun) <= 5


def test_bounded_map_raises_errors_of_items():
    def work(i):
        if i == 5:
            raise KeyError("five")
        return i

    with ThreadPoolExecutor(2) as pool, pytest.raises(KeyError, match="five"):
        list(bounded_map(pool, work, range(10), window=3))


# --- listing ---------------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed_names(source: Path) -> list[str]:
    listed = find_images(source)
    return [listed.name(path) for path in listed.paths]


def test_natural_order(tmp_path):
    ordered = ["Img3.jpg", "b2/2.png", "b2/10.png", "b10/1.png", "img1.jpg", "img2.jpg", "img10.jpg"]
    touch(tmp_path, *sorted(ordered))
    assert listed_names(tmp_path) == ordered


def test_order_does_not_depend_on_the_disk(tmp_path):
    names = ["007.jpg", "07.jpg", "7.jpg", "A.jpg", "a.jpg", "1a.jpg", "a1.jpg", "-1.jpg", "é.jpg", "١.jpg"]
    touch(tmp_path / "one", *names)
    touch(tmp_path / "two", *reversed(names))
    assert listed_names(tmp_path / "one") == listed_names(tmp_path / "two")
    assert len(listed_names(tmp_path / "one")) == len(names)


def test_suffixes_in_any_case(tmp_path):
    names = ["a.JPG", "b.Jpeg", "c.jpe", "d.jfif", "e.PNG", "f.webp", "g.BMP", "h.dib", "i.tif", "j.TIFF"]
    touch(tmp_path, *names, "k.txt", "l.gif", "jpg", "m.jpg.part")
    assert listed_names(tmp_path) == names


def test_hidden_names_are_skipped(tmp_path):
    touch(tmp_path, "a.jpg", ".b.jpg", ".cache/c.jpg", "d/.e/f.jpg", "._a.jpg")
    assert listed_names(tmp_path) == ["a.jpg"]


def test_a_hidden_folder_as_the_source_is_read(tmp_path):
    touch(tmp_path, ".photos/a.jpg")
    assert listed_names(tmp_path / ".photos") == ["a.jpg"]


def test_names_with_spaces_and_non_ascii_letters(tmp_path):
    names = ["a b/c  d.jpg", "Ærø.jpg", "写真.jpg", "😀.jpg", "line\nbreak.jpg", "two\u2028lines.jpg"]
    touch(tmp_path, *names)
    assert sorted(listed_names(tmp_path)) == sorted(names)
    for path in find_images(tmp_path).paths:
        path.write_bytes(JPEG)
        assert open_image(path).size == (32, 24)


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are always valid Unicode there")
def test_names_that_are_not_utf8(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(raw, "wb") as file:
        file.write(JPEG)
    touch(tmp_path, "b.jpg")
    listed = find_images(tmp_path)
    names = [listed.name(path) for path in listed.paths]
    assert sorted(names) == ["b.jpg", "caf\\xe9.jpg"]
    assert all(name.encode("utf-8") for name in names)  # so it can be written anywhere
    assert open_image(listed.paths[names.index("caf\\xe9.jpg")]).size == (32, 24)


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "photos/a.jpg", "photos/sub/b.jpg", "elsewhere/c.jpg")
    photos = tmp_path / "photos"
    (photos / "up").symlink_to(photos)  # a loop
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "other").symlink_to(tmp_path / "elsewhere")
    (photos / "other again").symlink_to(tmp_path / "elsewhere")
    (photos / "self").symlink_to(photos / "self")
    (photos / "dangling").symlink_to(tmp_path / "gone")
    names = listed_names(photos)
    assert sorted(Path(name).name for name in names) == ["a.jpg", "b.jpg", "c.jpg"]
    assert len({os.path.realpath(path) for path in find_images(photos).paths}) == 3


def test_link_as_the_root(tmp_path):
    touch(tmp_path, "photos/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert listed_names(tmp_path / "link") == ["a.jpg"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_folder_that_cannot_be_read_is_reported(tmp_path):
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    (tmp_path / "locked").chmod(0)
    try:
        listed = find_images(tmp_path)
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert listed.paths == [tmp_path / "a.jpg"]
    assert [entry.locator for entry in listed.unreadable] == [str(tmp_path / "locked")]
    assert "permission denied" in listed.unreadable[0].reason.lower()


def test_folder_named_like_an_image(tmp_path):
    touch(tmp_path, "folder.jpg/a.jpg", "b.jpg")
    assert listed_names(tmp_path) == ["b.jpg", "folder.jpg/a.jpg"]


def test_text_list(tmp_path):
    touch(tmp_path, "photos/a b.jpg", "photos/é.jpg", "far/c.jpg")
    lines = ["photos/a b.jpg", "", "  photos/é.jpg  ", str(tmp_path / "far/c.jpg"), "photos/gone.jpg", "photos/a b.jpg"]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    listed = find_images(tmp_path / "list.txt")
    # In natural order, each once; missing files stay in the list, so that opening them reports the error.
    assert [listed.name(path) for path in listed.paths] == [
        "far/c.jpg",
        "photos/a b.jpg",
        "photos/gone.jpg",
        "photos/é.jpg",
    ]
    assert [entry.name for entry in validate_files(listed.paths[2:3])] == [str(tmp_path / "photos/gone.jpg")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_text_list_with_different_newlines(tmp_path, newline):
    (tmp_path / "list").write_bytes(f"a.jpg{newline}b.jpg{newline}".encode())
    assert listed_names(tmp_path / "list") == ["a.jpg", "b.jpg"]


def test_text_list_with_unusual_names(tmp_path):
    names = ["two\u2028lines.jpg", "next\u0085line.jpg", "form\ffeed.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    assert sorted(listed_names(tmp_path / "list.txt")) == sorted(names)


def test_text_list_paths_are_relative_to_the_list(tmp_path, monkeypatch):
    touch(tmp_path, "photos/a.jpg", "cwd/x")
    (tmp_path / "photos/list.txt").write_text("a.jpg\n../photos/a.jpg\n")
    monkeypatch.chdir(tmp_path / "cwd")
    assert all(path.exists() for path in find_images(tmp_path / "photos/list.txt").paths)


def test_single_file(tmp_path):
    path = jpeg(tmp_path / "only one.JPG")
    listed = find_images(path)
    assert (listed.root, listed.paths, listed.name(path)) == (tmp_path, [path], "only one.JPG")


@pytest.mark.parametrize("content", [None, "a.txt", ".hidden.jpg"])
def test_source_without_images(tmp_path, content):
    if content:
        touch(tmp_path, content)
    with pytest.raises(ValueError, match="no images in"):
        find_images(tmp_path)


def test_empty_list(tmp_path):
    (tmp_path / "list.txt").write_text("\n  \n")
    with pytest.raises(ValueError, match="no images in"):
        find_images(tmp_path / "list.txt")


def test_missing_source(tmp_path):
    with pytest.raises(ValueError, match="does not exist; give a folder"):
        find_images(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\0v\0", "a.jpg".encode("utf-16")])
def test_unsupported_source(tmp_path, content):
    (tmp_path / "data.bin").write_bytes(content)
    with pytest.raises(ValueError, match="neither a folder, nor an image, nor an archive, nor a text file"):
        find_images(tmp_path / "data.bin")


def test_text_list_falls_back_to_the_working_directory(tmp_path, monkeypatch):
    # `find photos -name '*.jpg' > /tmp/list.txt` writes paths as seen from where it was run.
    here, lists = tmp_path / "here", tmp_path / "lists"
    (here / "photos").mkdir(parents=True)
    lists.mkdir()
    Image.new("RGB", (4, 4)).save(here / "photos" / "a.png")
    (lists / "list.txt").write_text("photos/a.png\nphotos/none.png\n")
    monkeypatch.chdir(here)
    assert find_images(lists / "list.txt").paths == [here / "photos" / "a.png", lists / "photos" / "none.png"]
