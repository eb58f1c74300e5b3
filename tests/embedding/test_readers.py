"""Dataset folders read with pandas, polars, DuckDB, Hugging Face datasets, LanceDB and Zarr."""

from pathlib import Path

import numpy as np
import pytest

from gtsa_kit.embedding import read_dataset
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder


@pytest.fixture(scope="module", params=["float32", "float16"])
def dataset(request: pytest.FixtureRequest, images: Path, model: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dataset") / "out"
    embed_folder(images, model, out, EmbedOptions(dtype=request.param, rows_per_shard=8))
    return out


def check(paths: list[str], vectors: object, dataset: Path) -> None:
    names, expected = read_dataset(dataset).vectors()
    assert paths == names == [f"p{i}.jpg" for i in range(20)]
    np.testing.assert_array_equal(np.stack(list(vectors)).astype(np.float32), expected.astype(np.float32))


def test_pandas(dataset: Path) -> None:
    import pandas as pd

    frame = pd.read_parquet(dataset / "vectors")
    check(frame["path"].tolist(), frame["embedding"], dataset)


def test_polars(dataset: Path) -> None:
    import polars as pl

    frame = pl.read_parquet(dataset / "vectors" / "*.parquet")
    check(frame["path"].to_list(), frame["embedding"].to_list(), dataset)


def test_duckdb(dataset: Path) -> None:
    import duckdb

    rows = duckdb.sql(f"SELECT path, embedding FROM '{dataset}/vectors/*.parquet'").fetchall()
    check([path for path, _ in rows], [vector for _, vector in rows], dataset)


def test_hugging_face_datasets(dataset: Path, tmp_path: Path) -> None:
    import datasets

    files = [str(path) for path in sorted((dataset / "vectors").iterdir())]
    rows = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path))
    check(rows["path"][:], rows["embedding"][:], dataset)


def test_lancedb(dataset: Path, tmp_path: Path) -> None:
    import lancedb
    import pyarrow.parquet as pq

    table = lancedb.connect(tmp_path).create_table("images", pq.read_table(dataset / "vectors"))
    rows = table.to_arrow()
    check(rows["path"].to_pylist(), rows["embedding"].to_pylist(), dataset)
    _, vectors = read_dataset(dataset).vectors()
    nearest = table.search(vectors[7].astype(np.float32)).distance_type("cosine").limit(1).to_list()
    assert nearest[0]["path"] == "p7.jpg"


def test_zarr_by_itself(images: Path, model: Path, tmp_path: Path) -> None:
    import zarr

    embed_folder(images, model, tmp_path / "out", EmbedOptions(dense=True, rows_per_shard=16))
    array = zarr.open_group(tmp_path / "out" / "dense.zarr", mode="r")["feature_map"]
    assert array.metadata.zarr_format == 3
    assert (array.shape, array.shards, array.chunks) == ((20, 64, 14, 14), (16, 64, 14, 14), (1, 64, 14, 14))
    assert array.dtype == np.float16
    _, vectors = read_dataset(tmp_path / "out").vectors()
    np.testing.assert_allclose(array[:].astype(np.float32).mean((2, 3)), vectors, atol=2e-3)
