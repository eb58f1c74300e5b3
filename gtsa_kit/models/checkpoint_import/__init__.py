"""ViT checkpoints of others (and of ours) to an `Encoder`: every key accounted for, nothing executed."""

from gtsa_kit.models.checkpoint_import.opening import Branch, ForeignEncoder, open_weights

__all__ = ["Branch", "ForeignEncoder", "open_weights"]
