"""Figure of matched patches: lines between two views, colored by cosine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.eval_images import common_size, evenly_spaced_indices, to_image
from gtsa_kit.evaluation.matches import MatchesOptions, PatchMatches, ViewPair, ViewPairs, feature_maps, match_patches
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.support.plots import image_grid, save_figure
from gtsa_kit.evaluation.support.tokens import patch_centers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 8
"""Width of the gap between two views, in pixels."""


def draw_matches(
    models: Sequence[Model],
    paths: Sequence[Path | tuple[Path, Path]],
    out: Path,
    options: MatchesOptions,
    seed: int = 0,
    lines: int = 24,
) -> None:
    """Draw a row for each pair of views and a column for each model, with some matches as lines.

    Args:
        models: Models to compare.
        paths: Images or pairs of images, as for `matches`.
        out: Path of the PNG.
        options: Options of the matching.
        seed: Seed of the views.
        lines: Number of matches to draw for each pair, evenly spaced in the order of their cosines.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    pairs = list(ViewPairs(paths, seed, common_size(models, options.size)))
    drawings = []
    for pair in pairs:
        for model in models:
            map_a, map_b = feature_maps(model, pair)
            patch_matches = match_patches(map_a, map_b, options.match_fraction)
            drawings.append((pair, _subset(patch_matches, lines), (map_a.shape[1], map_a.shape[2])))
    values = np.concatenate([patch_matches.cosine for _, patch_matches, _ in drawings])
    colors = ScalarMappable(Normalize(values.min(), values.max()), "viridis")
    figure = image_grid(len(models), len(pairs), width=4.2, height=2.1)
    for axis, (pair, patch_matches, grid) in zip(figure.axes, drawings, strict=True):
        _draw_pair(axis, pair, patch_matches, grid, colors.to_rgba(patch_matches.cosine))
    for axis, model in zip(figure.axes, models, strict=False):
        axis.set_title(model.name, fontsize=8)
    figure.colorbar(colors, ax=figure.axes, label="cosine", shrink=0.6)
    save_figure(figure, out)


def _subset(patch_matches: PatchMatches, count: int) -> PatchMatches:
    order = np.argsort(-patch_matches.cosine, kind="stable")
    chosen = order[evenly_spaced_indices(len(order), count)]
    return PatchMatches(*(column[chosen] for column in patch_matches))


def _draw_pair(
    axis: "Axes", pair: ViewPair, patch_matches: PatchMatches, grid: tuple[int, int], colors: np.ndarray
) -> None:
    from matplotlib.collections import LineCollection

    side = pair.a.image.shape[2]
    canvas = Image.new("RGB", (2 * side + GAP, side), "white")
    canvas.paste(to_image(pair.a.image), (0, 0))
    canvas.paste(to_image(pair.b.image), (side + GAP, 0))
    axis.imshow(np.asarray(canvas), interpolation="nearest")
    centers = side * patch_centers(*grid).numpy() - 0.5
    ends = np.stack([centers[patch_matches.a], centers[patch_matches.b] + [side + GAP, 0]], axis=1)
    axis.add_collection(LineCollection(list(ends), colors=colors, linewidths=0.9))
    axis.scatter(ends[..., 0], ends[..., 1], s=2, color="white", zorder=3)
