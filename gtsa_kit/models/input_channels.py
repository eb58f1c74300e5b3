"""Weights for another number of input channels, as timm converts them; models that take RGB alone."""

from typing import TYPE_CHECKING

from gtsa_kit.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor


def adapt_patch_kernel(kernel: "Tensor", count: int) -> "Tensor":
    """Convert a patch kernel (D, 3, p, p) of RGB to (D, count, p, p).

    One channel takes the sum over the colors. More take the colors again and again, scaled by 3 / count, so that the
    sum over all channels stays about the same.
    """
    colors = kernel.shape[1]
    if count == colors:
        return kernel
    if count == 1:
        return kernel.float().sum(dim=1, keepdim=True)
    repeats = -(-count // colors)
    return kernel.float().repeat(1, repeats, 1, 1)[:, :count] * (colors / count)


def require_rgb(name: object, preprocessing: Preprocessing, what: str) -> None:
    """Raise `ValueError` for a model of other images than 8-bit RGB.

    Args:
        name: The model, for the message.
        preprocessing: Its preprocessing.
        what: What takes RGB alone, as the subject of a sentence.
    """
    if not preprocessing.is_rgb:
        raise ValueError(
            f"{name} takes {len(preprocessing.mean)} channels of {preprocessing.samples.dtype}, and {what} 8-bit RGB "
            "alone; use a model that was trained without --channels"
        )
