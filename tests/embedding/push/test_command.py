"""gtsa embed push: options, output, errors; secrets appear in none of them."""

import json
import re
import socket
import textwrap
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from helpers.embedded_dataset import write_dataset
from helpers.paths import ROOT
from helpers.vector_stores import Table

from gtsa_kit.embedding.browse.search import search
from gtsa_kit.embedding.browse.vectors import open_vectors
from gtsa_kit.embedding.push import STORES
from gtsa_kit.embedding.push import push as push_module
from gtsa_kit.embedding.push import rows as rows_module
from gtsa_kit.embedding.push.rows import read_rows

Gtsa = Callable[..., CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of 40 rows, one of them without a direction."""
    vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    vectors[5] = 0
    return write_dataset(tmp_path / "vectors", vectors, source=Path("/images"))


def test_what_the_command_prints(gtsa_here: Gtsa, table: Table, folder: Path) -> None:
    option = "--url" if table.to == "pgvector" else "--path"
    named = [] if table.to == "faiss" else ["--table", table.name]
    command = ["embed", "push", folder, "--to", table.to, option, table.where, *named]
    done = gtsa_here(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "pushing: 40 of 40" in done.stderr
    assert re.search(r"39 rows added, 0 replaced, 0 unchanged in \S+.*; \d+ rows/s", done.stderr)
    assert "1 rows, sub/p5.jpg" in done.stderr
    done = gtsa_here(*command, "--json")
    result = json.loads(done.stdout)
    assert result.pop("rows_per_second") > 0
    assert result == {
        "to": table.to,
        "where": table.where.partition("?")[0],
        "table": None if table.to == "faiss" else table.name,
        "added": 0,
        "replaced": 0,
        "unchanged": 39,
        "invalid_vectors": ["sub/p5.jpg"],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--to faiss", "give either --path or --url"),
        ("--to faiss --path a --url s3://b", "give either --path or --url"),
        ("--to faiss --url s3://b", "--to faiss takes --path FILE"),
        ("--to faiss --path a --table b", "--to faiss takes no --table"),
        ("--to pgvector --path a", "--to pgvector takes --url postgresql://USER@HOST/DATABASE"),
        ("--to pgvector --url http://me:hush@h", "--to pgvector takes a --url that begins with postgresql://"),
        ("--to qdrant --url postgresql://me:hush@h", "--to qdrant takes a --url that begins with http://, https://"),
        ("--to lancedb --path a --table a/b", "is no name"),
        ("--to lancedb --path a --table a.b", "has a schema, which only pgvector has"),
        ("--to pgvector --url postgresql://me:hu/sh@h/d", "write them as %2F"),
    ],
)
def test_wrong_options(gtsa_here: Gtsa, folder: Path, options: str, message: str) -> None:
    done = gtsa_here("embed", "push", folder, *options.split())
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert "hush" not in done.stderr


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("to", ["pgvector", "qdrant"])
def test_a_server_that_does_not_answer(gtsa_here: Gtsa, folder: Path, to: str, debug: bool) -> None:
    pytest.importorskip("qdrant_client" if to == "qdrant" else "psycopg", reason=f"the extra {to} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    scheme, end = ("http", "") if to == "qdrant" else ("postgresql", "/d?sslpassword=whisper&connect_timeout=5")
    command = ["embed", "push", folder, "--to", to, "--url", f"{scheme}://me:hush%21@127.0.0.1:{port}{end}"]
    if debug:
        with pytest.raises(RuntimeError) as failed:
            gtsa_here(*command, "--debug")
        texts = [str(failed.value), str(failed.value.__cause__), str(failed.value.__suppress_context__)]
        assert texts[1:] == ["None", "True"]
    else:
        done = gtsa_here(*command)
        assert done.returncode == 1
        assert "run the command again to continue" in done.stderr
        texts = [done.stdout, done.stderr]
    assert not any(secret in text for text in texts for secret in ("hush", "whisper"))


def test_an_interruption_ends_with_130(gtsa_here: Gtsa, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(push_module, "read_rows", interrupted)
    pytest.importorskip("faiss", reason="faiss is not installed")
    done = gtsa_here("embed", "push", folder, "--to", "faiss", "--path", folder / "index")
    assert done.returncode == 130
    assert "run the command again to continue" in done.stderr


def test_a_store_that_is_not_installed(gtsa_here: Gtsa, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lancedb", None)
    done = gtsa_here("embed", "push", folder, "--to", "lancedb", "--path", folder / "db")
    assert done.returncode == 2
    assert "pip install 'gtsa-kit[lancedb]'" in done.stderr


def test_a_dataset_without_a_source_needs_a_name(tmp_path: Path) -> None:
    data = open_vectors(write_dataset(tmp_path / "d", np.ones((2, 4), np.float32)))
    with pytest.raises(ValueError, match="name them with --source"):
        push_module.push(data, "faiss", str(tmp_path / "index"))


def test_secrets_of_the_source_stay_out_of_the_rows(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", np.ones((2, 4), np.float32))
    (folder / "job.json").write_text(json.dumps({"source": {"path": "https://me:hush@host/images?token=t"}}))
    assert push_module.source_name(open_vectors(folder)) == "https://me@host/images"


@pytest.mark.parametrize("dim", [4, 4096, 1 << 20])
def test_batches_are_bounded_and_do_not_change_the_rows(
    tmp_path: Path, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 2 if dim > 4096 else 1500 if dim == 4 else 150
    vectors = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    data = open_vectors(write_dataset(tmp_path / "d", vectors, part=1024))
    batches = [batch for batch, _ in read_rows(data, "s")]
    assert max(len(batch.records) for batch in batches) <= max(1, min(1024, 2**21 // (4 * dim)))
    monkeypatch.setattr(rows_module, "MAX_BATCH_ROWS", 7)
    small = [batch for batch, _ in read_rows(data, "s")]
    assert [r for batch in batches for r in batch.records] == [r for batch in small for r in batch.records]
    np.testing.assert_array_equal(*(np.concatenate([batch.vectors for batch in some]) for some in (batches, small)))


def test_the_page_names_every_store() -> None:
    page = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    for to in STORES:
        assert f"gtsa embed push features/ --to {to} " in page


def test_the_searches_of_the_page_find_the_nearest(
    table: Table, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    snippet = re.search(rf"^    # {table.to}\n(?:    .+\n)+", page, re.MULTILINE)
    assert snippet
    monkeypatch.chdir(tmp_path)
    address = {"lancedb": "db", "faiss": "images.faiss"}.get(table.to, table.where)
    data = open_vectors(folder)
    push_module.push(data, table.to, address, table.name)
    code = textwrap.dedent(snippet[0]).replace("postgresql://me@localhost/images", table.where)
    code = code.replace("FROM images", f"FROM {table.name}")
    code = code.replace('QdrantClient("http://localhost:6333")', f"QdrantClient(path={table.where!r})")
    query = np.random.default_rng(3).standard_normal(8).astype(np.float32)
    names = {"query": query}
    exec(code, names)
    assert names["paths"] == [hit.row.path for hit in search(data, query, 10).hits]
    for opened in ("client", "connection"):
        if opened in names:
            names[opened].close()
