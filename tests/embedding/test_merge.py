"""Merging of the parts of a job."""

from pathlib import Path

import pytest
from helpers.folder_digests import folder_digests

from gtsa_kit.embedding import read_dataset
from gtsa_kit.embedding.merge import merge_parts
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder

MODES = {"vectors": {}, "maps": {"dense": True, "size": (32, 32)}, "ragged": {"dense": True, "short_side": 32}}


@pytest.mark.parametrize("mode", MODES)
def test_merged_parts_equal_one_run(mixed: Path, model: Path, tmp_path: Path, mode: str) -> None:
    options = {"batch_size": 1, "rows_per_shard": 5, **MODES[mode]}  # batches of one: then even the last bits agree
    embed_folder(mixed, model, tmp_path / "whole", EmbedOptions(**options))
    parts = [tmp_path / f"part{i}" for i in (3, 1, 2)]
    for part in parts:
        embed_folder(mixed, model, part, EmbedOptions(**options, part=(int(part.name[-1]), 3)))
    merge_parts(tmp_path / "merged", parts)
    assert folder_digests(tmp_path / "merged") == folder_digests(tmp_path / "whole")
    with pytest.raises(ValueError, match="give all from 1/3 to 3/3"):
        merge_parts(tmp_path / "less", parts[:2])
    embed_folder(mixed, model, tmp_path / "other", EmbedOptions(**options | {"max_pixels": 1}, part=(2, 3)))
    with pytest.raises(ValueError, match="another job"):
        merge_parts(tmp_path / "odd", [*parts[:2], tmp_path / "other"])
    assert len(read_dataset(tmp_path / "merged")) == 24
