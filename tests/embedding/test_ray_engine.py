from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.inline_ray import inline_ray

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
