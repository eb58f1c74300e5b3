"""Images to files of features, and back out of the files.

`read_dataset(folder)` opens what `gtsa embed` wrote.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtsa_kit.embedding.dataset import Dataset, read_dataset

__all__ = ["Dataset", "read_dataset"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: a command's help needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gtsa_kit.embedding import dataset

    return getattr(dataset, name)
