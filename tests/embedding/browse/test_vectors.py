"""Errors of folders that hold no readable dataset."""

from pathlib import Path

import numpy as np
import pytest
from helpers.embedded_dataset import write_dataset

from gtsa_kit.embedding.browse.vectors import open_vectors


def test_errors_name_what_is_missing_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no vectors"):
        open_vectors(tmp_path / "empty")
    with pytest.raises(ValueError, match="no rows"):
        open_vectors(write_dataset(tmp_path / "none", np.zeros((0, 4), dtype=np.float32)))
    cut = write_dataset(tmp_path / "cut", np.ones((50, 4), dtype=np.float32))
    part = cut / "vectors" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"part-00000.parquet is damaged.*--resume"):
        open_vectors(cut)
    mixed = write_dataset(tmp_path / "mixed", np.ones((5, 4), dtype=np.float32))
    other = write_dataset(tmp_path / "other", np.ones((5, 8), dtype=np.float32))
    (other / "vectors" / "part-00000.parquet").rename(mixed / "vectors" / "part-00001.parquet")
    with pytest.raises(ValueError, match="several models"):
        open_vectors(mixed)
