"""Groups of vectors in which every pair reaches a threshold of the cosine."""

import numpy as np

MAX_LINKAGE_ROWS = 4096
"""Vectors of one chain that complete linkage takes; its matrix of cosines is 134 MB then."""

_ROWS_AT_A_TIME = 256


def split_chain(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Return group numbers (n,) of vectors (n, D), such that all cosines inside of a group reach the threshold.

    No two groups could be joined under this rule. Equal vectors are always in one group. Up to `MAX_LINKAGE_ROWS`
    different vectors are grouped by complete linkage, which joins the most similar first; more are taken in their
    order, and each joins the group that it fits best.
    """
    unique, inverse = np.unique(vectors, axis=0, return_inverse=True)
    first = np.full(len(unique), len(vectors))
    np.minimum.at(first, inverse.ravel(), np.arange(len(vectors)))
    order = np.argsort(first)  # the unique vectors in the order of the rows
    unit = unique[order].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    group = complete_linkage if len(unit) <= MAX_LINKAGE_ROWS else best_fit
    labels = np.empty(len(unit), dtype=np.int64)
    labels[order] = group(unit, threshold)
    return labels[inverse.ravel()]


def complete_linkage(unit: np.ndarray, threshold: float) -> np.ndarray:
    """Return group numbers (n,) of unit vectors (n, D) by complete linkage, cut at the threshold.

    The algorithm is that of nearest-neighbor chains: a chain goes from each group to its most similar one until two are
    each other's most similar, and these are joined. It takes n² steps. Ties go to the first row.
    """
    similarity = unit_cosines(unit, unit)
    if similarity.min() >= threshold:
        return np.zeros(len(unit), dtype=np.int64)
    np.fill_diagonal(similarity, -np.inf)
    labels = np.arange(len(unit))
    open_groups = np.ones(len(unit), dtype=bool)
    chain: list[int] = []
    while open_groups.any():
        chain = chain or [int(open_groups.argmax())]
        group = chain[-1]
        best = int(similarity[group].argmax())
        if len(chain) > 1 and similarity[group, chain[-2]] == similarity[group, best]:
            best = chain[-2]
        if similarity[group, best] < threshold:  # it can never be joined again: similarities of groups only fall
            assert len(chain) == 1
            _close(similarity, open_groups, chain.pop())
        elif len(chain) > 1 and best == chain[-2]:
            kept, joined = min(group, best), max(group, best)
            similarity[kept] = similarity[:, kept] = np.minimum(similarity[kept], similarity[joined])
            _close(similarity, open_groups, joined)
            labels[labels == joined] = kept
            chain = chain[:-2]
        else:
            chain.append(best)
    return labels


def best_fit(unit: np.ndarray, threshold: float) -> np.ndarray:
    """Return group numbers (n,) of unit vectors (n, D), taken in their order.

    Each joins the group whose least similar member is most similar to it, or begins a group. Memory grows with the
    number of groups, and not with the square of n.
    """
    labels, groups = np.empty(len(unit), dtype=np.int64), 0
    for start in range(0, len(unit), _ROWS_AT_A_TIME):
        rows = unit[start : start + _ROWS_AT_A_TIME]
        fit = np.full((len(rows), groups + len(rows)), np.inf)  # lowest cosine with a member of each group
        for column in range(0, start, _ROWS_AT_A_TIME):
            similarity = unit_cosines(rows, unit[column : column + _ROWS_AT_A_TIME])
            members = labels[column : column + _ROWS_AT_A_TIME]
            by_group = np.argsort(members, kind="stable")
            present, starts = np.unique(members[by_group], return_index=True)
            lowest = np.minimum.reduceat(similarity[:, by_group], starts, axis=1)
            fit[:, present] = np.minimum(fit[:, present], lowest)
        inside = unit_cosines(rows, rows)
        for index in range(len(rows)):
            best = int(fit[index, :groups].argmax()) if groups else -1
            if best < 0 or fit[index, best] < threshold:
                best, groups = groups, groups + 1
            labels[start + index] = best
            fit[:, best] = np.minimum(fit[:, best], inside[:, index])
    return labels


def unit_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return cosines (n, m), float64, of unit vectors (n, D) and (m, D), rounded as `vectors.cosines` does."""
    return np.asarray(np.round(np.clip(a @ b.T, -1, 1), 12))


def _close(similarity: np.ndarray, open_groups: np.ndarray, group: int) -> None:
    similarity[group] = similarity[:, group] = -np.inf
    open_groups[group] = False
