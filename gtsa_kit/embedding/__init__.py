"""Embedding: images to vectors and feature maps, in memory or in dataset folders, and tools to browse those folders.

`read_dataset(folder)` opens a folder that `gtsa embed` wrote.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtsa_kit.embedding.dataset import EmbeddingDataset, read_dataset

__all__ = ["EmbeddingDataset", "read_dataset"]


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that `gtsa embed --help` loads nothing heavy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gtsa_kit.embedding import dataset

    return getattr(dataset, name)
