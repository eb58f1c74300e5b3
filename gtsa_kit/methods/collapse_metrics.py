"""Collapse metrics, which fall when features become constant or one-dimensional, and the rotation accuracy."""

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_TOKENS = 4096
"""Maximum number of tokens that `effective_rank` uses."""


@torch.no_grad()
def feature_std(tokens: Tensor) -> float:
    """Return the standard deviation of L2-normalized tokens (N, D).

    It is near 1 when the tokens cover all directions evenly and 0 when all tokens are equal.
    """
    unit = F.normalize(tokens.float(), dim=1)
    return float((unit.var(dim=0, unbiased=False).sum()).sqrt())


@torch.no_grad()
def effective_rank(tokens: Tensor) -> float:
    """Return the exponential of the entropy of the covariance's normalized eigenvalues (Roy and Vetterli, 2007).

    Args:
        tokens: (N, D). With more than `MAX_TOKENS` rows, every k-th row is used.

    Returns:
        A number between 1 and min(N - 1, D).
    """
    rows = tokens[:: -(-len(tokens) // MAX_TOKENS)].double()
    rows = rows - rows.mean(dim=0)
    eigenvalues = torch.linalg.eigvalsh(rows.T @ rows).clamp(min=0)
    if float(eigenvalues.sum()) == 0.0:
        return 1.0
    eigenvalues = eigenvalues / eigenvalues.sum()
    return float(torch.exp(-(eigenvalues * eigenvalues.clamp(min=1e-30).log()).sum()))


def rotation_accuracy(logits: Tensor, rotations: Tensor) -> Tensor:
    """Return the fraction of views whose rotation is predicted correctly, a scalar; chance is 0.25.

    Args:
        logits: (B, V, 4).
        rotations: (B, V) int64, rot90 k of each view.
    """
    return (logits.argmax(dim=-1) == rotations).float().mean()
