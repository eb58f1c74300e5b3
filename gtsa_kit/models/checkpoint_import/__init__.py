"""Import of ViT checkpoints of other tools, and of gtsa-kit, as an `Encoder`.

Every key of a checkpoint is used, skipped by name, or an error. No code in a checkpoint is run.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtsa_kit.models.checkpoint_import.importer import ImportedEncoder, open_weights

__all__ = ["ImportedEncoder", "open_weights"]


def __getattr__(name: str) -> Any:
    """Import a name on first use: the digest of weights needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gtsa_kit.models.checkpoint_import import importer

    return getattr(importer, name)
