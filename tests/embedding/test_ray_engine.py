import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.inline_ray import inline_ray
from helpers.paths import ROOT

import gtsa_kit
from gtsa_kit.embedding import ray_engine, read_dataset
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder


@pytest.fixture
def kept_cluster(small_cluster: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Keep the cluster that the engine starts until the test ends; return the calls that would have ended it."""
    import ray

    calls: list[str] = []
    shutdown = ray.shutdown
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    yield calls
    shutdown()


def test_a_ray_worker_gives_the_same_rows_in_the_same_order(
    mixed: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_cluster: list[str]
) -> None:
    monkeypatch.setattr(ray_engine, "BLOCK_ENTRIES", 5)
    options = {"dense": True, "short_side": 48, "dtype": "float32", "rows_per_shard": 6}
    embed_folder(mixed, model, tmp_path / "one", EmbedOptions(**options))
    embed_folder(mixed, model, tmp_path / "ray", EmbedOptions(**options, engine="ray", workers=1))
    one, many = read_dataset(tmp_path / "one"), read_dataset(tmp_path / "ray")
    for a, b in zip(one, many, strict=True):
        assert (a.path, a.width, a.height) == (b.path, b.width, b.height)
        np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-5)
        np.testing.assert_allclose(a.maps["feature_map"], b.maps["feature_map"], atol=1e-5)
        np.testing.assert_array_equal(a.grid_to_pixel, b.grid_to_pixel)
    assert list(one.errors()) == list(many.errors())
    assert kept_cluster == ["shutdown"]
    run_the_example(mixed, model, tmp_path / "vectors", monkeypatch)


def run_the_example(images: Path, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run examples/ray_embed.py on the cluster that is up, as to start one takes seconds; compare its vectors."""
    arguments = [images, "--model", model, "--out", out]
    monkeypatch.setattr(sys, "argv", ["ray_embed.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / "ray_embed.py"), run_name="__main__")
    unreadable: list[str] = []
    rows = gtsa_kit.embed(images, model, on_unreadable=lambda path, _: unreadable.append(path))
    expected = {str(images / row.path): row.features.embedding for row in rows}
    actual = {row["path"]: row["embedding"] for row in pq.read_table(out).to_pylist()}
    assert len(unreadable) == 4
    assert actual.keys() == expected.keys()
    for path, vector in expected.items():
        np.testing.assert_allclose(actual[path], vector, atol=1e-5)


class Echo:
    """Task that returns its items."""

    on_gpu = False

    def open(self) -> Callable[[list[str]], list[str]]:
        return list


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [0, 2, 1]])
def test_blocks_in_another_order_are_an_error(order: list[int]) -> None:
    results = ray_engine._run_blocks(inline_ray(order), [["a", "b"], ["c"], ["d"]], Echo(), 2)
    if order == [0, 1, 2]:
        assert list(results) == ["a", "b", "c", "d"]
    else:
        with pytest.raises(RuntimeError, match="Ray returned block"):
            list(results)
