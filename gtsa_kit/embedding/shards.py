"""Shards: the rows that a job commits together. An interruption loses at most one shard."""

from dataclasses import dataclass

from gtsa_kit.embedding.resize_policy import ResizePolicy

TARGET_BYTES = 64_000_000
"""Approximate size of a shard's maps."""
MAX_ROWS = 1024
"""Maximum rows of a shard."""
MIN_ROWS = 16
"""Minimum rows of a shard with maps of a fixed size."""
PATCH_RANGE = (8192, 65536)
"""Minimum and maximum patches of a shard with ragged maps."""


@dataclass(frozen=True)
class ShardLimits:
    """Limits of a shard: it is full after `rows` rows, and with ragged maps before `patches` patches are exceeded."""

    rows: int
    patches: int | None = None
    """Also the size of the shards of ragged arrays. An image with more patches fills several of them."""


class ShardFill:
    """Counter of the current shard's rows and patches.

    The extraction and the writer count with the same class, so no batch spans two shards.
    """

    def __init__(self, limits: ShardLimits) -> None:
        self.limits = limits
        self.rows = self.patches = 0

    def fits(self, patches: int) -> bool:
        """Return whether one more image with `patches` patches fits; any image fits into an empty shard."""
        if self.rows == 0:
            return True
        limit = self.limits.patches
        return self.rows < self.limits.rows and (limit is None or self.patches + patches <= limit)

    def add(self, patches: int) -> bool:
        """Count one image, and return whether it begins a new shard because it does not fit into the current one."""
        begins = not self.fits(patches)
        if begins:
            self.rows = self.patches = 0
        self.rows, self.patches = self.rows + 1, self.patches + patches
        return begins


def choose_shard_limits(
    resize: ResizePolicy, map_names: tuple[str, ...], dim: int, map_dtype: str, rows: int | None = None
) -> ShardLimits:
    """Return limits for shards of about `TARGET_BYTES`.

    Args:
        resize: Input sizes of the images.
        map_names: Names of the maps that are kept.
        dim: Channels D of a map.
        map_dtype: float16 or float32.
        rows: Requested rows of a shard, in place of the default.
    """
    if not map_names:
        return ShardLimits(rows or MAX_ROWS)
    patch_bytes = dim * (2 if map_dtype == "float16" else 4) * len(map_names)
    if resize.kind == "fixed":
        patches = resize.fixed_grid[0] * resize.fixed_grid[1]
        fitting = _power_of_two_below(TARGET_BYTES // (patch_bytes * patches))
        return ShardLimits(rows or min(MAX_ROWS, max(MIN_ROWS, fitting)))
    low, high = PATCH_RANGE
    return ShardLimits(rows or MAX_ROWS, max(low, min(high, _power_of_two_below(TARGET_BYTES // patch_bytes))))


def _power_of_two_below(limit: int) -> int:
    """Return the largest power of two up to `limit`, at least 1."""
    return 1 << max(0, limit.bit_length() - 1)
