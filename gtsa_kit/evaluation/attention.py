"""Attention maps of the last block: the class token, if there is one, by head, and the mean over patch tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gtsa_kit.evaluation.eval_images import EvalImages, to_input_image
from gtsa_kit.evaluation.support.plots import image_grid, shorten, show_image
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.evaluation.support.statistics import mean_with_ci
from gtsa_kit.figures import COLOR_MAP, figure_style, save_figure
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.pictures import to_picture
from gtsa_kit.models.preprocessing import InputImage
from gtsa_kit.models.sizes import nearest_side
from gtsa_kit.progress import ProgressCallback, no_progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS_IN_A_ROW = 6
"""Maximum number of heads in one row of the figure."""
MEASURES = {"class_entropy": "entropy, class token %", "patch_entropy": "entropy, patch tokens %"}
"""Heading of each column of the report's table, by key."""


class AttentionMaps(NamedTuple):
    """Attention weights of one image from a query to its patches. Those to class token and registers are left out."""

    heads: np.ndarray
    """Attention of the class token by head, or without one that of the patch tokens, (heads, h, w)."""
    patch_mean: np.ndarray
    """Attention of the patch tokens, averaged over these tokens and over heads, (h, w)."""
    query: str = "class token"
    """Query of `heads`: "class token", or "patch tokens"."""


@torch.inference_mode()
def last_attention(encoder: Encoder, images: Tensor) -> Tensor:
    """Compute the attention weights of the last block, as its attention without a fused kernel does.

    Args:
        encoder: Encoder in evaluation mode; it is left unchanged.
        images: (B, 3, H, W) preprocessed images.

    Returns:
        (B, heads, P + n, P + n) weights, queries first, with the P = `encoder.prefix` prefix tokens at the start.
    """
    layer, seen = encoder.vit.blocks[-1].attn, []
    # Only the computation in single steps has the weights; they pass through dropout, which does nothing here.
    handle = layer.attn_drop.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    fused, layer.fused_attn = layer.fused_attn, False
    try:
        encoder(images)
    finally:
        layer.fused_attn = fused
        handle.remove()
    weights: Tensor = seen[0]
    return weights


def attention_maps(encoder: Encoder, image: InputImage, size: tuple[int, int]) -> AttentionMaps:
    """Compute the attention maps of one image, resized to (height, width)."""
    device = encoder.vit.patch_embed.proj.weight.device
    prepared = torch.from_numpy(encoder.preprocessing(image, size))[None].to(device)
    weights = last_attention(encoder, prepared)[0].double().cpu().numpy()
    grid = size[0] // encoder.architecture.patch, size[1] // encoder.architecture.patch
    patches = slice(encoder.prefix, None)
    by_head = weights[:, patches, patches].mean(axis=1)
    heads, query = (
        (weights[:, 0, patches], "class token") if encoder.architecture.has_class_token else (by_head, "patch tokens")
    )
    return AttentionMaps(heads.reshape(-1, *grid), by_head.mean(axis=0).reshape(grid), query)


def attention(
    encoders: Sequence[tuple[str, Encoder]],
    paths: Sequence[Path],
    out: Path,
    size: int | None = None,
    on_progress: ProgressCallback = no_progress,
) -> Report:
    """Draw the attention maps of the last block and report their normalized entropy.

    The figure has a row for each image and model: the image, the mean attention of the patch tokens, and the attention
    of the class token (of the patch tokens in a ViT without one) by head, on one color scale. The GTSA losses do not
    use the class token of the last block, so after GTSA training its attention is a by-product; in other weights it may
    be a summary.

    Args:
        encoders: Encoders by name; see `models.open_encoders`.
        paths: Images; unreadable ones are skipped.
        out: Path of the figure.
        size: Side of the square input, in pixels; None means each encoder's own size.
        on_progress: Progress callback.

    Raises:
        ValueError: No image can be read.
    """
    preprocessing, rows_to_draw = encoders[0][1].preprocessing, []
    images = EvalImages(paths, 0, on_progress, preprocessing)
    sides = [nearest_side(size or encoder.preprocessing.size, encoder.architecture.patch) for _, encoder in encoders]
    entropies: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in encoders}
    for item in images:
        image = to_input_image(item.pixels)
        picture = to_picture(image, preprocessing)
        for (name, encoder), side in zip(encoders, sides, strict=True):
            maps = attention_maps(encoder, image, (side, side))
            rows_to_draw.append((name, item.path.name, picture.resize((side, side)), maps))
            by_head = float(np.mean([normalized_entropy(head) for head in maps.heads]))
            class_entropy = by_head if encoder.architecture.has_class_token else np.nan
            entropies[name].append((class_entropy, normalized_entropy(maps.patch_mean)))
    save_figure(draw_attention(rows_to_draw), out)
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


@figure_style()
def draw_attention(rows: Sequence[tuple[str, str, Image.Image, AttentionMaps]]) -> "Figure":
    """Draw a row for each image and model; one color scale, with 1 for uniform attention, holds for all maps.

    Args:
        rows: Names of the model and of the image, the image, and its maps.
    """
    ratios_by_row = [[_ratio(weights) for weights in (maps.patch_mean, *maps.heads)] for _, _, _, maps in rows]
    columns = 1 + min(max(map(len, ratios_by_row)), 1 + HEADS_IN_A_ROW)
    lines = [-(-len(ratios) // (columns - 1)) for ratios in ratios_by_row]
    figure = image_grid(columns, sum(lines), width=1.35, height=1.6)
    highest = max(
        2.0, float(np.quantile(np.concatenate([r.ravel() for ratios in ratios_by_row for r in ratios]), 0.995))
    )
    axes = np.array(figure.axes).reshape(-1, columns)
    first = 0
    for (model, name, image, maps), ratios, count in zip(rows, ratios_by_row, lines, strict=True):
        show_image(axes[first, 0], image, name=shorten(name, 18))
        axes[first, 0].set_ylabel(shorten(model, 22), fontsize=8)
        for unused in axes[first + 1 : first + count, 0]:
            unused.set_visible(False)
        own = axes[first : first + count, 1:].ravel()
        for axis in own[len(ratios) :]:
            axis.set_visible(False)
        for index, (axis, ratio) in enumerate(zip(own, ratios, strict=False)):
            drawn = axis.imshow(ratio, cmap=COLOR_MAP, vmin=0, vmax=highest, interpolation="nearest")
            axis.set_title("mean of patch tokens" if not index else f"{maps.query}, head {index - 1}", fontsize=7)
            axis.set_xlabel(f"{ratio.min():.2g} to {ratio.max():.2g}", fontsize=7, labelpad=2)
        first += count
    label = "attention, 1: uniform over patches"
    figure.colorbar(drawn, ax=figure.axes, label=label, extend="max", shrink=min(1.0, 2 / len(axes)), pad=0.01)
    return figure


def _ratio(weights: np.ndarray) -> np.ndarray:
    """Return attention weights divided by those of uniform attention."""
    ratio: np.ndarray = weights * weights.size / weights.sum()
    return ratio
