"""Where the last block looks: attention of the class token by head, and what the pooled patch tokens attend to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gtsa_kit.config import PATCH
from gtsa_kit.evaluation.scenes import Scenes, to_image
from gtsa_kit.evaluation.support.estimates import mean_with_ci
from gtsa_kit.evaluation.support.figures import grid, save
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.models.encoder import Encoder, nearest_side
from gtsa_kit.progress import ProgressCallback, no_progress

MEASURES = {"class_spread": "spread of class token %", "pooled_spread": "of pooled tokens %"}


class AttentionMaps(NamedTuple):
    """Attention over the cells of one image; the rest of each row's 1 goes to the class token."""

    heads: np.ndarray
    """(heads, h, w) of the class token."""
    pooled: np.ndarray
    """(h, w): mean over patch tokens, which are what the embedding pools, and over heads."""


@torch.inference_mode()
def last_attention(encoder: Encoder, images: Tensor) -> Tensor:
    """Attention of the last block, (B, heads, 1 + n, 1 + n), queries first, the class token in front.

    Computed from what the block's own query and key projections give; the encoder is left as it was.

    Args:
        encoder: In evaluation mode.
        images: (B, 3, H, W), preprocessed.
    """
    layer, seen = encoder.vit.blocks[-1].attn, []
    handle = layer.qkv.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        encoder(images)
    finally:
        handle.remove()
    b, n, _ = seen[0].shape
    q, k, _ = seen[0].reshape(b, n, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, 1 + n, d) each
    q, k = layer.q_norm(q), layer.k_norm(k)
    weights: Tensor = (q @ k.transpose(-2, -1) * layer.scale).softmax(dim=-1)
    return weights


def look(encoder: Encoder, image: Image.Image, size: tuple[int, int]) -> AttentionMaps:
    """Attention over one image, resized to (height, width)."""
    prepared = torch.from_numpy(encoder.preprocessing(image, size))[None]
    weights = last_attention(encoder, prepared)[0].double().numpy()
    shape = size[0] // PATCH, size[1] // PATCH
    return AttentionMaps(weights[:, 0, 1:].reshape(-1, *shape), weights[:, 1:, 1:].mean(axis=(0, 1)).reshape(shape))


def attention(
    encoders: Sequence[tuple[str, Encoder]],
    paths: Sequence[Path],
    out: Path,
    size: int | None = None,
    tell: ProgressCallback = no_progress,
) -> Report:
    """Draw where the last block looks, and say how widely.

    For each image a row for each model: the image, what the pooled patch tokens attend to (mean over heads),
    and the class token's attention by head, each colored from its least to its most. Spread is the exponential of the
    entropy over the cells, as a share of them: 100% is even attention, little is a look at few cells. Our losses never
    read the class token of the last block, so after our training its looks are a by-product; in foreign weights they
    may be a summary.

    Args:
        encoders: By name; see `models.open_encoders`.
        paths: Images; broken ones are left out.
        out: PNG.
        size: Side of the square input; None: each encoder's own.
        tell: Told of the progress.

    Raises:
        ValueError: No image that can be read.
    """
    scenes, drawn = Scenes(paths, 0, tell), []
    sides = [nearest_side(size or encoder.preprocessing.size) for _, encoder in encoders]
    spreads: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in encoders}
    for scene in scenes:
        image = to_image(scene.pixels)
        for (name, encoder), side in zip(encoders, sides, strict=True):
            seen = look(encoder, image, (side, side))
            drawn.append((name, image.resize((side, side)), seen))
            spreads[name].append((float(np.mean([spread(head) for head in seen.heads])), spread(seen.pooled)))
    _draw(drawn, out)
    rows: list[dict[str, Any]] = []
    for name, values in spreads.items():
        columns = zip(MEASURES, 100 * np.array(values).T, strict=True)
        rows.append(
            {"model": name, "seed": 0} | {k: v for key, column in columns for k, v in mean_with_ci(key, column).items()}
        )
    about = {"sizes": sides, "block": "last"} | scenes.settings()
    return Report("attention", f"attention of the last block, {scenes.count} images", MEASURES, rows, about)


def spread(weights: np.ndarray) -> float:
    """Exponential of the entropy of weights, which are scaled to sum to 1, as a share of their number."""
    share = weights.ravel() / weights.sum()
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum()) / share.size)


def _draw(drawn: list[tuple[str, Image.Image, AttentionMaps]], out: Path) -> None:
    columns = 2 + max(len(seen.heads) for _, _, seen in drawn)
    figure = grid(columns, len(drawn), width=1.6, height=1.9)
    for row, (name, image, seen) in enumerate(drawn):
        axes = figure.axes[row * columns : (row + 1) * columns]
        axes[0].imshow(np.asarray(image))
        axes[0].set_title(name, fontsize=7)
        titles = ["pooled tokens", *(f"class, head {head}" for head in range(len(seen.heads)))]
        for axis, title, weights in zip(axes[1:], titles, [seen.pooled, *seen.heads], strict=False):
            axis.imshow(np.asarray(image.convert("L")), cmap="gray")
            extent = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
            axis.imshow(weights, cmap="inferno", alpha=0.65, extent=extent, interpolation="nearest")
            share = weights * weights.size / weights.sum()  # 1 is even attention
            axis.set_title(f"{title}\n{share.min():.2g} to {share.max():.2g} × even", fontsize=7)
    save(figure, out)
