"""Contact sheets: pixels of the images, texts, and file formats."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtsa_kit.embedding.browse.contact_sheet import (
    TILE,
    Tile,
    arrange_groups,
    check_contact_sheet_path,
    check_outside_images,
    draw_contact_sheet,
    write_contact_sheet,
)

MARGIN = 16


def make_tiles(count: int) -> list[Tile]:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (200, TILE, 3), dtype=np.uint8)) for _ in range(count)]
    return [Tile(image, f"{rank}   0.9", f"a_$b/{rank}.jpg") for rank, image in enumerate(images)]


def test_images_are_drawn_pixel_by_pixel_at_200_dpi(tmp_path: Path) -> None:
    tiles = make_tiles(3)
    write_contact_sheet(tiles, tmp_path / "new" / "sheet.png", columns=2)
    with Image.open(tmp_path / "new" / "sheet.png") as file:
        assert file.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        pixels = np.asarray(file.convert("RGB"))
    step = (TILE + MARGIN, pixels.shape[0] // 2 - MARGIN // 2)
    for index, tile in enumerate(tiles):
        left, top = MARGIN + index % 2 * step[0], MARGIN + index // 2 * step[1] + (TILE - 200) // 2
        np.testing.assert_array_equal(pixels[top : top + 200, left : left + TILE], np.asarray(tile.image))


def test_texts_are_readable_and_cut_to_the_width_of_a_tile() -> None:
    tiles = [*make_tiles(1), Tile(None, "and 7 more", "x" * 300 + "/last.jpg", "missing")]
    texts = draw_contact_sheet(tiles).axes[0].texts
    assert [text.get_text() for text in texts][:4] == ["0   0.9", "a_$b/0.jpg", "missing", "and 7 more"]
    assert texts[4].get_text().startswith("…x")
    assert texts[4].get_text().endswith("x/last.jpg")
    figure = texts[4].get_figure()
    figure.set_dpi(200)
    assert TILE - 20 < texts[4].get_window_extent().width <= TILE + 2
    assert min(text.get_fontsize() for text in texts) >= 7
    assert not any(text.get_parse_math() for text in texts)


@pytest.mark.parametrize(("suffix", "start"), [("jpg", b"\xff\xd8"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_formats(tmp_path: Path, suffix: str, start: bytes) -> None:
    out = tmp_path / f"sheet.{suffix}"
    write_contact_sheet(arrange_groups([make_tiles(1), make_tiles(4)], 3), out, 3)
    assert out.read_bytes().startswith(start)


def test_other_formats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\.png, \.jpg, \.svg or \.pdf file, got x\.gif"):
        check_contact_sheet_path(Path("x.gif"))


def test_a_contact_sheet_among_the_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    (photos / "vectors").mkdir(parents=True)
    for name in ("job.json", "input_index.sqlite"):
        (photos / "vectors" / name).touch()
    sources = ["s3://bucket/photos", str(photos)]
    for path in (photos / "sheet.jpg", photos / "new" / "sheet.png"):
        with pytest.raises(ValueError, match="the images of the dataset; write it to another folder"):
            check_outside_images(path, sources)
    monkeypatch.chdir(photos)
    with pytest.raises(ValueError, match=r"sheet.jpg lies in .*photos"):
        check_outside_images(Path("sheet.jpg"), sources)
    for path in (tmp_path / "sheet.jpg", photos / "sheet.svg", photos / "vectors" / "search.jpg"):
        check_outside_images(path, sources)  # elsewhere, no image, in a folder that listings leave out
