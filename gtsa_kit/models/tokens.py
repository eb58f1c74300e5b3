"""Tokens of an encoder as a map and as one vector: what `Encoder` and the graph that is exported have in common."""

from collections.abc import Callable

from torch import Tensor


def tokens_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Reshape patch tokens (B, h*w, D) to (B, D, h, w)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


def pool_tokens(kind: str, x: Tensor, normed: Tensor, prefix: int, norm: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the embedding (B, D) of tokens (B, prefix + N, D).

    Args:
        kind: One of `models.architecture.EMBEDDINGS`.
        x: Tokens before the final norm.
        normed: Tokens after it.
        prefix: Number of tokens before those of the patches.
        norm: The final norm.
    """
    if kind == "cls":
        return normed[:, 0]
    if kind == "norm of mean":
        return norm(x[:, prefix:].mean(dim=1))
    return normed[:, prefix:].mean(dim=1)
