"""Pushing into real stores: LanceDB and Qdrant in a folder, PostgreSQL with pgvector, faiss."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import one_thread
from helpers.embedded_dataset import manifest, unit64, write_dataset
from helpers.vector_stores import Table

from gtsa_kit.embedding.browse.search import search
from gtsa_kit.embedding.browse.vectors import VectorTable, open_vectors
from gtsa_kit.embedding.push import push as push_module
from gtsa_kit.embedding.push import rows as rows_module
from gtsa_kit.embedding.push.push import PushSummary, push

DIM = 16


def dataset(folder: Path, vectors: np.ndarray, paths: list[str] | None = None, **more: Any) -> VectorTable:
    """Write a dataset whose images came from /images, and open it."""
    return open_vectors(write_dataset(folder, vectors, paths, **{"part": 75, "source": Path("/images"), **more}))


def scaled_vectors(count: int) -> np.ndarray:
    """Return vectors (count, DIM) of many norms."""
    rng = np.random.default_rng(1)
    return (rng.standard_normal((count, DIM)) * rng.uniform(0.1, 30, (count, 1))).astype(np.float32)


@pytest.fixture
def vectors() -> np.ndarray:
    """200 vectors of many norms."""
    return scaled_vectors(200)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six batches of 200 rows, of which some end with a part."""
    monkeypatch.setattr(rows_module, "MAX_BATCH_ROWS", 40)


def counts(summary: PushSummary) -> tuple[int, int, int]:
    """Return the numbers of a summary."""
    return summary.added, summary.replaced, summary.unchanged


def check_rows(table: Table, data: VectorTable, vectors: np.ndarray) -> None:
    """Assert that a table holds the rows of a dataset, each once, with vectors of length 1."""
    expected = sorted(zip(data.rows(), unit64(vectors), strict=True), key=lambda item: item[0].path)
    rows = table.rows()
    assert [row["path"] for row in rows] == [row.path for row, _ in expected]
    for stored, (row, vector) in zip(rows, expected, strict=True):
        assert (stored["source"], stored["width"], stored["height"]) == ("/images", row.width, row.height)
        assert (stored["sha256"], stored["stamp"]) == (row.sha256, row.stamp)
        np.testing.assert_allclose(stored["embedding"], vector, atol=1e-6)
    assert len({row["id"] for row in rows}) == len(rows)


def test_the_client_of_the_store_finds_the_same_neighbors(table: Table, tmp_path: Path) -> None:
    vectors = scaled_vectors(500)
    data = dataset(tmp_path / "d", vectors)
    assert counts(push(data, *table.arguments)) == (500, 0, 0)
    queries = np.random.default_rng(2).standard_normal((20, DIM)).astype(np.float32)
    for query in queries / np.linalg.norm(queries, axis=1, keepdims=True):
        assert table.search(query, 10) == [hit.row.path for hit in search(data, query, 10).hits]
    check_rows(table, data, vectors)
    before = table.rows()
    assert counts(push(data, *table.arguments)) == (0, 0, 500)
    assert [row["row_hash"] for row in table.rows()] == [row["row_hash"] for row in before]


def test_changed_rows_are_replaced_and_new_ones_added(table: Table, vectors: np.ndarray, tmp_path: Path) -> None:
    data = dataset(tmp_path / "before", vectors)
    push(data, *table.arguments)
    changed = np.concatenate([vectors, vectors[:5] + 1])
    changed[[3, 150, 199]] *= -1
    sizes = [(41, 31) if i in (7, 8) else (40, 30) for i in range(205)]
    data = dataset(tmp_path / "after", changed, pixels=sizes, part=120)
    assert counts(push(data, *table.arguments)) == (5, 5, 195)
    check_rows(table, data, changed)
    assert table.search(unit64(changed)[150].astype(np.float32), 1) == ["sub/p150.jpg"]
    assert counts(push(data, *table.arguments)) == (0, 0, 205)


@pytest.mark.parametrize("after", [False, True], ids=["before a batch", "after a batch"])
def test_a_push_that_was_interrupted_is_continued(
    table: Table, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """The first push fails in its first batch, the next one in its second, and so on; each has rows to replace."""
    old = vectors.copy()
    old[::20] += 1
    push(dataset(tmp_path / "old", old[:50]), *table.arguments)
    data = dataset(tmp_path / "d", vectors)
    opened = push_module.open_store
    for step in range(5):

        def open_failing(*arguments: Any, step: int = step) -> Any:
            store, written = opened(*arguments), []
            write = store.write

            def failing(batch: Any) -> None:
                if len(written) == step and not after:
                    raise OSError("the cable is out")
                write(batch)
                written.append(batch)
                if len(written) == step + 1 and after:
                    raise OSError("the cable is out")

            store.write = failing
            return store

        monkeypatch.setattr(push_module, "open_store", open_failing)
        try:
            push(data, *table.arguments)
        except OSError:
            continue
        assert step > 1
    monkeypatch.setattr(push_module, "open_store", opened)
    push(data, *table.arguments)
    check_rows(table, data, vectors)
    assert counts(push(data, *table.arguments)) == (0, 0, 200)


KILLED = """
import os, signal, sys
from pathlib import Path
from gtsa_kit.embedding.browse.vectors import open_vectors
from gtsa_kit.embedding.push import rows
from gtsa_kit.embedding.push.push import push

folder, to, where, name = sys.argv[1:]
rows.MAX_BATCH_ROWS = 40
push(open_vectors(Path(folder)), to, where, name,
     on_progress=lambda done, _: os.kill(os.getpid(), signal.SIGKILL) if done >= 115 else None)
"""


def test_a_push_that_was_killed_is_continued(table: Table, vectors: np.ndarray, tmp_path: Path) -> None:
    data = dataset(tmp_path / "d", vectors)
    command = [sys.executable, "-c", KILLED, str(data.folder), *table.arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=one_thread())
    assert done.returncode == -signal.SIGKILL, done.stderr
    added, replaced, unchanged = counts(push(data, *table.arguments))
    assert (added, replaced, unchanged) == ((200, 0, 0) if table.to == "faiss" else (85, 0, 115))
    check_rows(table, data, vectors)


def test_a_table_of_another_model_is_refused(table: Table, vectors: np.ndarray, tmp_path: Path) -> None:
    push(dataset(tmp_path / "d", vectors), *table.arguments)
    narrow = dataset(tmp_path / "narrow", vectors[:, :8])
    with pytest.raises(ValueError, match=r"numbers in a vector 16, not 8; choose another name"):
        push(narrow, *table.arguments)
    other = manifest(DIM).model_copy(update={"source_sha256": "1" * 64})
    with pytest.raises(ValueError, match=r"another model: weights \(sha256\) 0+, not 1+; choose another name"):
        push(dataset(tmp_path / "other", vectors, model_manifest=other), *table.arguments)
    with pytest.raises(ValueError, match=r"resize None, not \{'kind': 'native'\}"):
        push(dataset(tmp_path / "n", vectors, resize={"kind": "native"}), *table.arguments)
    assert len(table.rows()) == 200


def test_a_table_of_another_program_is_refused(table: Table, vectors: np.ndarray, tmp_path: Path) -> None:
    table.make_foreign(DIM)
    with pytest.raises(ValueError, match=r"not made by gtsa embed push|exists without .*parquet"):
        push(dataset(tmp_path / "d", vectors), *table.arguments)


def test_rows_without_direction_and_rows_of_one_path(table: Table, vectors: np.ndarray, tmp_path: Path) -> None:
    """A tar may have two members of one name, and two datasets images of the same names."""
    vectors[[2, 120]], vectors[150, 0] = 0, np.nan
    paths = [f"p{i - i % 2 if 40 <= i < 80 else i}.jpg" for i in range(200)]
    data = dataset(tmp_path / "d", vectors, paths)
    summary = push(data, *table.arguments)
    assert counts(summary) == (197, 0, 0)
    assert [row.index for row in summary.invalid] == [2, 120, 150]
    assert counts(push(data, *table.arguments)) == (0, 0, 197)
    assert counts(push(data, *table.arguments, source="/others")) == (197, 0, 0)
    rows = table.rows()
    assert len(rows) == len({row["id"] for row in rows}) == 2 * 197
    assert sum(row["source"] == "/others" for row in rows) == 197


def test_a_kill_between_the_two_files_of_faiss(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Parquet file is new, the index old: its rows keep their numbers, and the next push repairs the rest."""
    pytest.importorskip("faiss", reason="faiss is not installed")
    table = Table("faiss", str(tmp_path / "index"))
    before = dataset(tmp_path / "before", vectors[:120])
    push(before, *table.arguments)
    changed = vectors.copy()
    changed[::60] *= -1
    after = dataset(tmp_path / "after", changed)
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if target == Path(table.where):
            raise OSError("killed")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="killed"):
        push(after, *table.arguments)
    monkeypatch.undo()
    query = unit64(vectors)[60].astype(np.float32)
    assert table.search(query, 10) == [hit.row.path for hit in search(before, query, 10).hits]
    push(after, *table.arguments)
    check_rows(table, after, changed)
    assert counts(push(after, *table.arguments)) == (0, 0, 200)
