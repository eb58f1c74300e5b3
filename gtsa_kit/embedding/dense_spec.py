"""Layout of the feature maps of a dataset folder."""

from dataclasses import dataclass

from gtsa_kit.embedding.shards import ShardLimits


@dataclass(frozen=True)
class DenseSpec:
    """Names, type and shape of the arrays."""

    outputs: tuple[str, ...]
    """Names of the feature maps."""
    dim: int
    """Channels D."""
    dtype: str
    """float16 or float32."""
    limits: ShardLimits
    grid: tuple[int, int] | None
    """Shape (h, w) of all maps; None if it varies (ragged arrays)."""
