from pathlib import Path

import numpy as np

from gtsa_kit.embedding import read_dataset
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder


def test_two_ray_workers_give_the_same_rows_in_the_same_order(
    mixed: Path, model: Path, tmp_path: Path, monkeypatch
) -> None:
    from gtsa_kit.embedding import ray_engine

    monkeypatch.setattr(ray_engine, "BLOCK_ENTRIES", 5)
    options = {"dense": True, "short_side": 48, "dtype": "float32", "rows_per_shard": 6}
    embed_folder(mixed, model, tmp_path / "one", EmbedOptions(**options))
    embed_folder(mixed, model, tmp_path / "ray", EmbedOptions(**options, engine="ray", workers=2))
    one, many = read_dataset(tmp_path / "one"), read_dataset(tmp_path / "ray")
    for a, b in zip(one, many, strict=True):
        assert (a.path, a.width, a.height) == (b.path, b.width, b.height)
        np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-5)
        np.testing.assert_allclose(a.maps["feature_map"], b.maps["feature_map"], atol=1e-5)
        np.testing.assert_array_equal(a.grid_to_pixel, b.grid_to_pixel)
    assert list(one.errors()) == list(many.errors())
