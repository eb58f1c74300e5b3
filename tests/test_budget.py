"""docs/budget.md: the disk space of vectors and maps follows from shapes, and is that of the files."""

import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

from gtsa_kit.embedding import read_dataset
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder
from gtsa_kit.models.architecture import ARCHITECTURES

PAGE = (ROOT / "docs" / "budget.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (vit_\w+) \| (\d+) \| ([\d,]+) B \| (.+) KB \| (.+) KB \| (.+) KB \| (\d+) GB \|$", PAGE, re.M)
SIZES = ((224, 224), (448, 448), (480, 640))


def map_bytes(width: int, height: int, length: int, patch: int = 16) -> int:
    """Bytes of a float16 map of an image of height x length pixels."""
    return 2 * width * (height // patch) * (length // patch)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_table_follows_from_shapes(row: tuple[str, ...]) -> None:
    arch, width, vector, *kilobytes, gigabytes = row
    architecture = ARCHITECTURES[arch]  # type: ignore[index]
    sizes = [map_bytes(architecture.width, *size, architecture.patch) for size in SIZES]
    written = [int(text.replace(",", "")) for text in (vector, *kilobytes)]
    assert (int(width), written[0]) == (architecture.width, 4 * architecture.width)
    assert written[1:] == [round(size / 1000) for size in sizes]
    assert int(gigabytes) == round(100_000 * sizes[0] / 1e9)


def test_the_table_has_every_size_that_people_train() -> None:
    assert [row[0] for row in ROWS] == ["vit_tiny", "vit_small", "vit_base", "vit_large"]


def test_files_take_what_the_formulas_say(few: Path, tiny_run: Path, tmp_path: Path) -> None:
    embed_folder(few, tiny_run, tmp_path / "out", EmbedOptions(dense=True, size=(64, 96)))
    rows, width = list(read_dataset(tmp_path / "out")), ARCHITECTURES["vit_test"].width
    assert {row.embedding.nbytes for row in rows} == {4 * width}
    assert {row.maps["feature_map"].nbytes for row in rows} == {map_bytes(width, 64, 96)}
    chunks = [path for path in (tmp_path / "out" / "dense.zarr" / "feature_map").rglob("*") if path.name != "zarr.json"]
    stored = sum(path.stat().st_size for path in chunks if path.is_file())
    assert 0 <= stored - len(rows) * map_bytes(width, 64, 96) < 20_000  # the index of a file of many maps
