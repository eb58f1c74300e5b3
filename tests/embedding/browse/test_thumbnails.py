"""Images of rows, opened from every kind of source."""

import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from gtsa_kit.data.image_io import ImageError
from gtsa_kit.embedding.browse.thumbnails import SourceImages


def test_images_in_archives_lists_and_globs(images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(images / "p1.jpg", "in/p1.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(images / "p1.jpg", "in/p1.jpg")
    (tmp_path / "list.txt").write_text("x")
    size = Image.open(images / "p1.jpg").size
    inside, absolute = "in/p1.jpg", str(images / "p1.jpg")
    for source, path in (
        (tmp_path / "a.zip", inside),
        (tmp_path / "a.tar", inside),
        (tmp_path / "list.txt", absolute),
        (images / "*.jpg", "p1.jpg"),
    ):
        opened = SourceImages(str(source))
        assert opened.open(path).size == size
        assert list(opened.thumbnails([path, "none.jpg"], 8))[1] is None
    assert SourceImages("s3://bucket/x").file("p.jpg") is None


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
            SourceImages(str(tmp_path / name)).open("p1.jpg")
