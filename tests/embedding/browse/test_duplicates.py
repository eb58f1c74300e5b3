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
from gtsa_kit.embedding.browse import linkage
from gtsa_kit.embedding.browse.duplicates import find_duplicates
from gtsa_kit.embedding.browse.linkage import complete_linkage, split_chain
from gtsa_kit.embedding.browse.vectors import open_vectors

CPU = torch.device("cpu")


@pytest.fixture(params=["small blocks", "one block"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small blocks":
        use_small_blocks(monkeypatch)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("threshold", "device"), [(0.95, None), (0.99, CPU), (1.0, None)])
def test_duplicates_equal_brute_force(threshold: float, device: torch.device | None, tmp_path: Path) -> None:
    rows = clustered_vectors(600, 16, seed=1)
    rng = np.random.default_rng(2)
    sizes = [(int(w), int(h)) for w, h in rng.integers(1, 4, (600, 2))]
    data = open_vectors(write_dataset(tmp_path / "d", rows, pixels=sizes, part=250))
    duplicates = find_duplicates(data, threshold, device)
    assert [row.index for row in duplicates.invalid] == [7, 11, 13]
    cosine = np.round(np.nan_to_num(unit64(rows) @ unit64(rows).T), 12)
    groups = [sorted(member.row.index for member in group) for group in duplicates.groups]
    check_partition(cosine, groups, threshold)
    assert groups == sorted(groups)
    for group in duplicates.groups:
        first, others = group[0].row, group[1:]
        assert all(first.width * first.height >= member.row.width * member.row.height for member in others)
        assert [member.row.index for member in others] == sorted(member.row.index for member in others)
        for member in others:
            assert member.cosine == pytest.approx(cosine[first.index, member.row.index], abs=1e-10)


def check_partition(cosine: np.ndarray, groups: list[list[int]], threshold: float) -> None:
    """Assert that all pairs in a group reach the threshold, and that no two groups could be joined."""
    labels = -np.arange(1, len(cosine) + 1)
    for number, group in enumerate(groups):
        assert (labels[group] < 0).all(), "each row once"
        labels[group] = number
    one_hot = labels[:, None] == np.unique(labels)
    lowest = np.stack([cosine[members].min(axis=0) for members in one_hot.T])
    lowest = np.stack([lowest[:, members].min(axis=1) for members in one_hot.T])
    for number in range(len(lowest)):
        inside = cosine[np.ix_(one_hot[:, number], one_hot[:, number])]
        assert len(inside) == 1 or inside.min() >= threshold
    np.fill_diagonal(lowest, -1)
    assert lowest.max() < threshold


def drifting_frames(count: int, seed: int = 0) -> np.ndarray:
    """Return vectors of a video: neighbors are nearly the same, the first and the last are at right angles."""
    angles = np.linspace(0, np.pi / 2, count) + np.random.default_rng(seed).normal(0, 1e-4, count)
    return np.stack([np.cos(angles), np.sin(angles), np.zeros(count)], axis=1).astype(np.float32)


def test_a_video_is_split_into_groups_and_not_one_chain(tmp_path: Path) -> None:
    rows = drifting_frames(200)
    cosine = np.round(unit64(rows) @ unit64(rows).T, 12)
    assert (np.diagonal(cosine, 1) >= 0.995).all()  # one chain
    data = open_vectors(write_dataset(tmp_path / "d", rows))
    groups = [[member.row.index for member in group] for group in find_duplicates(data, 0.995, CPU).groups]
    check_partition(cosine, [sorted(group) for group in groups], 0.995)
    assert 15 <= len(groups) <= 40
    assert sum(map(len, groups)) > 190
    assert groups == [[member.row.index for member in group] for group in find_duplicates(data, 0.995, CPU).groups]


@pytest.mark.parametrize("threshold", [0.8, 0.95, 0.99])
def test_linkage_equals_scipy(threshold: float) -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy", reason="SciPy is not installed")
    unit = unit64(clustered_vectors(400, 6, seed=3)[20:])
    distance = np.clip(1 - unit @ unit.T, 0, 2)
    condensed = distance[np.triu_indices(len(unit), 1)]
    expected = hierarchy.fcluster(hierarchy.linkage(condensed, "complete"), 1 - threshold, "distance")
    labels = complete_linkage(unit, threshold)
    np.testing.assert_array_equal(labels[:, None] == labels, expected[:, None] == expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_longer_chain_than_linkage_takes_is_split_too(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linkage, "MAX_LINKAGE_ROWS", 50)
    monkeypatch.setattr(linkage, "_ROWS_AT_A_TIME", 37)
    rows = np.random.default_rng(seed).permutation(drifting_frames(300, seed))
    rows[250:] = rows[:50]  # copies
    labels = split_chain(rows, 0.995)
    np.testing.assert_array_equal(labels[250:], labels[:50])
    cosine = np.round(unit64(rows) @ unit64(rows).T, 12)
    check_partition(cosine, [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)], 0.995)


def test_many_copies_are_one_group_in_little_memory(tmp_path: Path) -> None:
    data = open_vectors(write_dataset(tmp_path / "d", np.ones((9000, 4), dtype=np.float16), part=5000))
    duplicates = find_duplicates(data, 1.0, CPU)
    assert [len(group) for group in duplicates.groups] == [9000]


def test_one_row_has_no_duplicates(tmp_path: Path) -> None:
    data = open_vectors(write_dataset(tmp_path / "d", np.ones((1, 4), dtype=np.float32)))
    assert find_duplicates(data, 0.9, CPU).groups == []


def test_duplicates_command_on_an_incomplete_dataset(tmp_path: Path, images: Path) -> None:
    rows = np.eye(20, dtype=np.float32)
    rows[15] = rows[4]
    names = [f"p{i}.jpg" for i in range(20)]
    rows = np.concatenate([rows, rows[:3]])  # a part that the journal does not count
    journal = {"shards": 2, "complete": False}
    data = write_dataset(tmp_path / "d", rows, [*names, *"abc"], part=10, journal=journal, source=images)
    done = CliRunner().invoke(browse_app, ["duplicates", str(data), "--contact-sheet", str(tmp_path / "sheet.jpg")])
    assert done.exit_code == 0, done.output
    assert "1 groups of 2 images; 1 could be dropped" in done.stdout
    assert "not complete" in done.stderr
    assert Image.open(tmp_path / "sheet.jpg").width > 1000
    gone = write_dataset(tmp_path / "gone", np.ones((3, 4), dtype=np.float32), source=tmp_path / "nowhere")
    done = CliRunner().invoke(browse_app, ["duplicates", str(gone)])  # on a machine without the images
    assert "2 could be dropped" in done.stdout
    assert "3 are changed or missing now" in done.stdout
    for options in (["--threshold", "0"], ["--threshold", "nan"], ["--contact-sheet", "x.gif"]):
        done = CliRunner().invoke(browse_app, ["duplicates", str(data), *options])
        assert isinstance(done.exception, ValueError)
