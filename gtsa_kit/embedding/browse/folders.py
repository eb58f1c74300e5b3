"""Folders of a dataset's images, as groups with a legend."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

MAX_FOLDERS = 12
"""Folders with a color of their own; the others share one."""


def group_by_folder(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the names of folders, largest first, and the index of each image's folder, (n,) int32.

    The folders are those at the first level at which the images lie in different ones. Folders beyond `MAX_FOLDERS` are
    one group, the last. Without different folders, the list is empty and all indices are 0.
    """
    parts = [name.split("/")[:-1] for name in names]
    depth = next(
        (d for d in range(max(map(len, parts), default=0)) if len({tuple(p[: d + 1]) for p in parts}) > 1), None
    )
    if depth is None:
        return [], np.zeros(len(names), dtype=np.int32)
    folders = ["/".join(part[: depth + 1]) or "(no folder)" for part in parts]
    counts = Counter(folders)
    order = sorted(counts, key=lambda folder: (-counts[folder], folder))
    index = {folder: min(i, MAX_FOLDERS) for i, folder in enumerate(order)}
    groups = [f"{folder} ({counts[folder]:,})" for folder in order[:MAX_FOLDERS]]
    if rest := order[MAX_FOLDERS:]:
        groups.append(f"{len(rest):,} other folders ({sum(counts[folder] for folder in rest):,})")
    return groups, np.array([index[folder] for folder in folders], dtype=np.int32)
