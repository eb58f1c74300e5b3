"""Signs of collapse: numbers that fall towards zero when features become constant or one-dimensional."""

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_TOKENS = 4096


@torch.no_grad()
def feature_std(tokens: Tensor) -> float:
    """Spread of unit-length tokens (N, D): 1 when they fill all directions evenly, 0 when they are all alike."""
    unit = F.normalize(tokens.float(), dim=1)
    return float((unit.var(dim=0, unbiased=False).sum()).sqrt())


@torch.no_grad()
def effective_rank(tokens: Tensor) -> float:
    """Exponential of the entropy of the covariance's normalized eigenvalues: between 1 and min(N - 1, D).

    Args:
        tokens: (N, D); at most `MOST_TOKENS` rows, evenly spread, are used.
    """
    rows = tokens[:: -(-len(tokens) // MOST_TOKENS)].double()
    rows = rows - rows.mean(dim=0)
    share = torch.linalg.eigvalsh(rows.T @ rows).clamp(min=0)
    if float(share.sum()) == 0.0:
        return 1.0
    share = share / share.sum()
    return float(torch.exp(-(share * share.clamp(min=1e-30).log()).sum()))


def rotation_accuracy(logits: Tensor, turns: Tensor) -> Tensor:
    """Share of views (B, V) whose quarter turn the logits (B, V, 4) name; chance is 0.25."""
    return (logits.argmax(dim=-1) == turns).float().mean()
