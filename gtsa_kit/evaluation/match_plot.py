"""Figure of matched patches: lines between two views, colored by right and wrong where the truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.eval_images import coarsest_grid, common_size, evenly_spaced_indices, to_input_image
from gtsa_kit.evaluation.matches import (
    MatchesOptions,
    PatchMatches,
    ViewPair,
    ViewPairs,
    feature_maps,
    match_distances,
    match_patches,
    within_one_patch,
)
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.support.plots import shorten
from gtsa_kit.evaluation.support.tokens import patch_centers
from gtsa_kit.figures import COLOR_MAP, RIGHT, WRONG, axes_grid, figure_style, save_figure
from gtsa_kit.models.pictures import to_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 8
"""Width of the gap between two views, in pixels."""


@dataclass(frozen=True)
class _Drawing:
    """One of the axes: a pair of views and the matches to draw."""

    pair: ViewPair
    patch_matches: PatchMatches
    grid: tuple[int, int]
    unit: tuple[int, int]
    """Grid whose patches are the unit of distances."""

    @property
    def right(self) -> np.ndarray | None:
        """Mask of the matches within one patch of the true position; None for two images, whose truth is unknown."""
        if not self.pair.same_image:
            return None
        return within_one_patch(match_distances(self.patch_matches, self.pair, self.grid, self.unit))


@figure_style()
def draw_matches(
    models: Sequence[Model],
    paths: Sequence[Path | tuple[Path, Path]],
    out: Path,
    options: MatchesOptions,
    seed: int = 0,
    lines: int = 24,
) -> None:
    """Draw a row for each pair of views and a column for each model, with some matches as lines.

    For two views of an image, the color tells right from wrong matches: blue and solid within one patch of the true
    position, orange and dashed otherwise. For two images, whose true correspondence is unknown, it is the cosine.

    Args:
        models: Models to compare.
        paths: Images or pairs of images, as for `matches`.
        out: Path of the figure.
        options: Options of the matching.
        seed: Seed of the views.
        lines: Number of matches to draw for each pair, evenly spaced in the order of their cosines.
    """
    size, stated = common_size(models, options.size), models[0].runner.preprocessing
    pairs, unit = list(ViewPairs(paths, seed, size, preprocessing=stated)), coarsest_grid(models, size)
    drawings = []
    for pair in pairs:
        for model in models:
            map_a, map_b = feature_maps(model, pair)
            patch_matches = match_patches(map_a, map_b, options.match_fraction)
            drawings.append(_Drawing(pair, _subset(patch_matches, lines), (map_a.shape[1], map_a.shape[2]), unit))
    figure = axes_grid(len(models), len(pairs), width=4.2, height=2.2)
    if pairs[0].same_image:
        _draw_right_and_wrong(figure, drawings)
    else:
        _draw_cosines(figure, drawings)
    for axis, model in zip(figure.axes, models, strict=False):
        axis.set_title(model.name)
    save_figure(figure, out)


def _draw_right_and_wrong(figure: "Figure", drawings: Sequence[_Drawing]) -> None:
    from matplotlib.lines import Line2D

    for axis, drawing in zip(figure.axes, drawings, strict=True):
        assert drawing.right is not None, "two views of one image"
        colors = np.where(drawing.right, RIGHT, WRONG).tolist()
        _draw_pair(axis, drawing.pair, drawing.patch_matches, drawing.grid, colors, drawing.right)
        axis.set_xlabel(f"{shorten(drawing.pair.name)}: {drawing.right.sum()} of {len(drawing.right)} right")
    handles = [Line2D([], [], color=RIGHT), Line2D([], [], color=WRONG, linestyle="--")]
    labels = ["right: within one patch of the true position", "wrong"]
    figure.legend(handles, labels, loc="outside lower center", ncols=2)


def _draw_cosines(figure: "Figure", drawings: Sequence[_Drawing]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = np.concatenate([drawing.patch_matches.cosine for drawing in drawings])
    colors = ScalarMappable(Normalize(values.min(), values.max()), COLOR_MAP)
    axes = figure.axes
    for axis, drawing in zip(axes, drawings, strict=True):
        rgba = colors.to_rgba(drawing.patch_matches.cosine)
        _draw_pair(axis, drawing.pair, drawing.patch_matches, drawing.grid, rgba)
        axis.set_xlabel(shorten(drawing.pair.name, 50))
    figure.colorbar(colors, ax=axes, label="cosine", shrink=0.6)


def _subset(patch_matches: PatchMatches, count: int) -> PatchMatches:
    order = np.argsort(-patch_matches.cosine, kind="stable")
    chosen = order[evenly_spaced_indices(len(order), count)]
    return PatchMatches(*(column[chosen] for column in patch_matches))


def _draw_pair(
    axis: "Axes",
    pair: ViewPair,
    patch_matches: PatchMatches,
    grid: tuple[int, int],
    colors: Sequence[str] | np.ndarray,
    solid: np.ndarray | None = None,
) -> None:
    """Draw two views and their matches; `solid` is a mask of the lines that are not dashed, None for all."""
    from matplotlib.collections import LineCollection

    side = pair.a.image.shape[2]
    canvas = Image.new("RGB", (2 * side + GAP, side), "white")
    for view, left in ((pair.a, 0), (pair.b, side + GAP)):
        canvas.paste(to_picture(to_input_image(view.image), pair.preprocessing), (left, 0))
    axis.imshow(np.asarray(canvas), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    centers = side * patch_centers(*grid).numpy() - 0.5
    ends = np.stack([centers[patch_matches.a], centers[patch_matches.b] + [side + GAP, 0]], axis=1)
    styles = [
        "-" if solid is None or one else (0, (3, 1.5)) for one in (solid if solid is not None else patch_matches.a)
    ]
    axis.add_collection(LineCollection(list(ends), colors="white", linewidths=2.0, alpha=0.6))
    axis.add_collection(LineCollection(list(ends), colors=colors, linestyles=styles, linewidths=1.1))
    axis.scatter(ends[..., 0], ends[..., 1], s=2, color="white", zorder=3)
