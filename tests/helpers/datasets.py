"""Multi-crop datasets of listed files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.multicrop import MultiCropDataset
from gtsa_kit.data.sources import FileSource


def multicrop_dataset(paths: Iterable[Path], views: ViewsConfig, seed: int, **options: Any) -> MultiCropDataset:
    """Build the dataset of image files in the given order; the locator of an entry is its path."""
    source = FileSource(Path(), list(paths))
    return MultiCropDataset(source, list(source.entries()), views, seed, **options)
