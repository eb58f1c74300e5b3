from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gtsa_kit.embedding import ray_engine, read_dataset
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder


def test_a_ray_worker_gives_the_same_rows_in_the_same_order(
    mixed: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_cluster: None
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


class Rows:
    """Stand-in for a Ray dataset: computes nothing, and returns its rows in the given order."""

    def __init__(self, rows: list[dict[str, Any]], order: list[int]) -> None:
        self.rows, self.order = rows, order

    def map_batches(self, *_: object, **__: object) -> "Rows":
        return self

    def iter_rows(self) -> list[dict[str, Any]]:
        return [{"number": self.rows[i]["number"], "results": self.rows[i]["block"]} for i in self.order]


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [0, 2, 1]])
def test_blocks_in_another_order_are_an_error(order: list[int]) -> None:
    data = SimpleNamespace(from_items=lambda rows, **_: Rows(rows, order), ActorPoolStrategy=lambda **_: None)
    ray = SimpleNamespace(data=data, cluster_resources=dict)
    task = ray_engine.ExtractTask("", Path("model"), {}, None, ray_engine.BatchPlan(1, 1), None, False)
    results = ray_engine._run_blocks(ray, [["a", "b"], ["c"], ["d"]], task, 2)
    if order == [0, 1, 2]:
        assert list(results) == ["a", "b", "c", "d"]
    else:
        with pytest.raises(RuntimeError, match="Ray returned block"):
            list(results)
