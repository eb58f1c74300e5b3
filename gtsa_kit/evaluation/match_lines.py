"""Matched patches as lines between two views."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.matches import Matches, Pair, Pairs, Settings, best_matches, maps_of
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.scenes import common_size, to_image
from gtsa_kit.evaluation.support.figures import grid, save
from gtsa_kit.evaluation.support.tokens import cell_centers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_matches(
    models: Sequence[Model],
    paths: Sequence[Path | tuple[Path, Path]],
    out: Path,
    settings: Settings,
    seed: int = 0,
    lines: int = 24,
) -> None:
    """Draw the pairs, a row each and a column for each model, with some of the matches as lines colored by cosine.

    Args:
        models: To compare.
        paths: As for `matches`.
        out: PNG.
        settings: What is matched.
        seed: Of the views.
        lines: How many, evenly spread from the best match to the worst that counts.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    pairs = list(Pairs(paths, seed, common_size(models, settings.size)))
    drawn = []
    for pair in pairs:
        for model in models:
            map_a, map_b = maps_of(model, pair)
            found = best_matches(map_a, map_b, settings.matched)
            drawn.append((pair, _some(found, lines), (map_a.shape[1], map_a.shape[2])))
    values = np.concatenate([found.cosine for _, found, _ in drawn])
    colors = ScalarMappable(Normalize(values.min(), values.max()), "viridis")
    figure = grid(len(models), len(pairs), width=4.2, height=2.1)
    for axis, (pair, found, shape) in zip(figure.axes, drawn, strict=True):
        _draw_pair(axis, pair, found, shape, colors.to_rgba(found.cosine))
    for axis, model in zip(figure.axes, models, strict=False):
        axis.set_title(model.name, fontsize=8)
    figure.colorbar(colors, ax=figure.axes, label="cosine", shrink=0.6)
    save(figure, out)


GAP = 8
"""Pixels between two views."""


def _some(found: Matches, count: int) -> Matches:
    order = np.argsort(-found.cosine, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]
    return Matches(*(column[chosen] for column in found))


def _draw_pair(axis: "Axes", pair: Pair, found: Matches, shape: tuple[int, int], colors: np.ndarray) -> None:
    from matplotlib.collections import LineCollection

    side = pair.a.image.shape[2]
    canvas = Image.new("RGB", (2 * side + GAP, side), "white")
    canvas.paste(to_image(pair.a.image), (0, 0))
    canvas.paste(to_image(pair.b.image), (side + GAP, 0))
    axis.imshow(np.asarray(canvas), interpolation="nearest")
    centers = side * cell_centers(*shape).numpy() - 0.5
    ends = np.stack([centers[found.a], centers[found.b] + [side + GAP, 0]], axis=1)
    axis.add_collection(LineCollection(list(ends), colors=colors, linewidths=0.9))
    axis.scatter(ends[..., 0], ends[..., 1], s=2, color="white", zorder=3)
