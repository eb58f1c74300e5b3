"""Near-duplicates against brute force, and the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.clustered_vectors import clustered_vectors, use_small_blocks
from helpers.embedded_dataset import unit64, write_dataset
from PIL import Image
from typer.testing import CliRunner

from gtsa_kit.cli.embed_browse import browse_app
from gtsa_kit.embedding.browse.duplicates import find_duplicates
from gtsa_kit.embedding.browse.vectors import open_vectors

CPU = torch.device("cpu")


@pytest.fixture(params=["small blocks", "one block"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small blocks":
        use_small_blocks(monkeypatch)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("threshold", [0.95, 0.99, 1.0])
def test_duplicates_equal_brute_force(threshold: float, tmp_path: Path) -> None:
    rows = clustered_vectors(600, 16, seed=1)
    rng = np.random.default_rng(2)
    sizes = [(int(w), int(h)) for w, h in rng.integers(1, 4, (600, 2))]
    data = open_vectors(write_dataset(tmp_path / "d", rows, pixels=sizes, part=250))
    duplicates = find_duplicates(data, threshold, CPU)
    unit = unit64(rows)
    cosine = np.round(unit @ unit.T, 11)
    remaining, groups = set(range(600)), []
    for start in range(600):  # flood fill
        if start not in remaining:
            continue
        group, pending = [], [start]
        remaining.discard(start)
        while pending:
            i = pending.pop()
            group.append(i)
            similar = [j for j in sorted(remaining) if cosine[i, j] >= threshold]
            pending += similar
            remaining -= set(similar)
        if len(group) > 1:
            groups.append(sorted(group))
    assert [sorted(member.row.index for member in group) for group in duplicates.groups] == groups
    assert duplicates.invalid_vectors == 3
    dropped = 0
    for group in duplicates.groups:
        first, others = group[0].row, group[1:]
        assert all(first.width * first.height >= member.row.width * member.row.height for member in others)
        assert [member.row.index for member in others] == sorted(member.row.index for member in others)
        for member in others:
            assert member.cosine == pytest.approx(cosine[first.index, member.row.index], abs=1e-10)
            assert member.drop == (cosine[first.index, member.row.index] >= threshold)
            dropped += member.drop
    assert duplicates.droppable == dropped > 0


def test_many_copies_are_one_group_in_little_memory(tmp_path: Path) -> None:
    data = open_vectors(write_dataset(tmp_path / "d", np.ones((9000, 4), dtype=np.float16), part=5000))
    duplicates = find_duplicates(data, 1.0, CPU)
    assert [len(group) for group in duplicates.groups] == [9000]
    assert duplicates.droppable == 8999


def test_one_row_has_no_duplicates(tmp_path: Path) -> None:
    data = open_vectors(write_dataset(tmp_path / "d", np.ones((1, 4), dtype=np.float32)))
    assert find_duplicates(data, 0.9, CPU).groups == []


def test_duplicates_command_on_an_incomplete_dataset(tmp_path: Path, images: Path) -> None:
    rows = np.eye(20, dtype=np.float32)
    rows[15] = rows[4]
    names = [f"p{i}.jpg" for i in range(20)]
    rows = np.concatenate([rows, rows[:3]])  # a part that the journal does not count
    journal = {"shards": 2, "complete": False}
    data = write_dataset(tmp_path / "d", rows, [*names, *"abc"], part=10, journal=journal, source=str(images))
    done = CliRunner().invoke(browse_app, ["duplicates", str(data), "--contact-sheet", str(tmp_path / "sheet.jpg")])
    assert done.exit_code == 0, done.output
    assert "1 groups of 2 images; 1 could be dropped" in done.stdout
    assert "not complete" in done.stderr
    assert Image.open(tmp_path / "sheet.jpg").width > 1000
    for options in (["--threshold", "0"], ["--threshold", "nan"], ["--contact-sheet", "x.gif"]):
        done = CliRunner().invoke(browse_app, ["duplicates", str(data), *options])
        assert isinstance(done.exception, ValueError)
