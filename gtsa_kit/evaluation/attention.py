"""Attention maps of the last block: the class token by head, and the mean over patch tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gtsa_kit.config import PATCH
from gtsa_kit.evaluation.eval_images import EvalImages, to_image
from gtsa_kit.evaluation.support.plots import image_grid, save_figure
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.evaluation.support.statistics import mean_with_ci
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.sizes import nearest_side
from gtsa_kit.progress import ProgressCallback, no_progress

MEASURES = {"class_entropy": "entropy, class token %", "patch_entropy": "entropy, patch tokens %"}
"""Heading of each column of the report's table, by key."""


class AttentionMaps(NamedTuple):
    """Attention weights of one image from a query to its patches. Those to the class token are not included."""

    heads: np.ndarray
    """Attention of the class token by head, (heads, h, w)."""
    patch_mean: np.ndarray
    """Attention of the patch tokens, averaged over these tokens and over heads, (h, w)."""


@torch.inference_mode()
def last_attention(encoder: Encoder, images: Tensor) -> Tensor:
    """Compute the attention weights of the last block from its query and key projections.

    Args:
        encoder: Encoder in evaluation mode; it is left unchanged.
        images: (B, 3, H, W) preprocessed images.

    Returns:
        (B, heads, 1 + n, 1 + n) weights, queries first, with the class token at index 0.
    """
    layer, projections = encoder.vit.blocks[-1].attn, []
    handle = layer.qkv.register_forward_hook(lambda _module, _inputs, output: projections.append(output))
    try:
        encoder(images)
    finally:
        handle.remove()
    b, n, _ = projections[0].shape
    q, k, _ = projections[0].reshape(b, n, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, 1 + n, d) each
    q, k = layer.q_norm(q), layer.k_norm(k)
    weights: Tensor = (q @ k.transpose(-2, -1) * layer.scale).softmax(dim=-1)
    return weights


def attention_maps(encoder: Encoder, image: Image.Image, size: tuple[int, int]) -> AttentionMaps:
    """Compute the attention maps of one image, resized to (height, width)."""
    prepared = torch.from_numpy(encoder.preprocessing(image, size))[None].to(encoder.vit.cls_token.device)
    weights = last_attention(encoder, prepared)[0].double().cpu().numpy()
    grid = size[0] // PATCH, size[1] // PATCH
    return AttentionMaps(weights[:, 0, 1:].reshape(-1, *grid), weights[:, 1:, 1:].mean(axis=(0, 1)).reshape(grid))


def attention(
    encoders: Sequence[tuple[str, Encoder]],
    paths: Sequence[Path],
    out: Path,
    size: int | None = None,
    on_progress: ProgressCallback = no_progress,
) -> Report:
    """Draw the attention maps of the last block and report their normalized entropy.

    The figure has a row for each image and model: the image, the mean attention of the patch tokens, and the attention
    of the class token by head, each colored from its minimum to its maximum. The GTSA losses do not use the class token
    of the last block, so after GTSA training its attention is a by-product; in other weights it may be a summary.

    Args:
        encoders: Encoders by name; see `models.open_encoders`.
        paths: Images; unreadable ones are skipped.
        out: Path of the PNG.
        size: Side of the square input, in pixels; None means each encoder's own size.
        on_progress: Progress callback.

    Raises:
        ValueError: No image can be read.
    """
    images, rows_to_draw = EvalImages(paths, 0, on_progress), []
    sides = [nearest_side(size or encoder.preprocessing.size) for _, encoder in encoders]
    entropies: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in encoders}
    for item in images:
        image = to_image(item.pixels)
        for (name, encoder), side in zip(encoders, sides, strict=True):
            maps = attention_maps(encoder, image, (side, side))
            rows_to_draw.append((name, image.resize((side, side)), maps))
            class_entropy = float(np.mean([normalized_entropy(head) for head in maps.heads]))
            entropies[name].append((class_entropy, normalized_entropy(maps.patch_mean)))
    _draw(rows_to_draw, out)
    rows: list[dict[str, Any]] = []
    for name, values in entropies.items():
        columns = zip(MEASURES, 100 * np.array(values).T, strict=True)
        rows.append(
            {"model": name, "seed": 0} | {k: v for key, column in columns for k, v in mean_with_ci(key, column).items()}
        )
    settings = {"sizes": sides, "block": "last"} | images.report_settings()
    return Report("attention", f"attention of the last block, {images.count} images", MEASURES, rows, settings)


def normalized_entropy(weights: np.ndarray) -> float:
    """Return exp(entropy) of weights, which are scaled to sum to 1, divided by their number.

    Uniform weights give 1; a single nonzero weight among n gives 1 / n.
    """
    share = weights.ravel() / weights.sum()
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum()) / share.size)


def _draw(rows: list[tuple[str, Image.Image, AttentionMaps]], out: Path) -> None:
    columns = 2 + max(len(maps.heads) for _, _, maps in rows)
    figure = image_grid(columns, len(rows), width=1.6, height=1.9)
    for index, (name, image, maps) in enumerate(rows):
        axes = figure.axes[index * columns : (index + 1) * columns]
        axes[0].imshow(np.asarray(image))
        axes[0].set_title(name, fontsize=7)
        titles = ["patch tokens", *(f"class, head {head}" for head in range(len(maps.heads)))]
        for axis, title, weights in zip(axes[1:], titles, [maps.patch_mean, *maps.heads], strict=False):
            axis.imshow(np.asarray(image.convert("L")), cmap="gray")
            extent = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
            axis.imshow(weights, cmap="inferno", alpha=0.65, extent=extent, interpolation="nearest")
            ratio = weights * weights.size / weights.sum()  # 1 is uniform attention
            axis.set_title(f"{title}\n{ratio.min():.2g} to {ratio.max():.2g} × uniform", fontsize=7)
    save_figure(figure, out)
