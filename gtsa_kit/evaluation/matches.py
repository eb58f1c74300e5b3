"""Patch matches that the correspondence loss selects, and their errors in patches: figure 3 of the paper."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gtsa_kit.config import LossConfig
from gtsa_kit.data.augment import crop_and_rotate
from gtsa_kit.evaluation.correspondence import CorrespondenceOptions, View, sample_views
from gtsa_kit.evaluation.eval_images import EvalImage, EvalImages, coarsest_grid, common_size, encode
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.evaluation.support.statistics import mean_with_ci
from gtsa_kit.evaluation.support.tokens import cosine_matrix, patch_centers, patch_distance
from gtsa_kit.geometry import map_points_between_views
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.progress import ProgressCallback, no_progress

MEASURES = {"cosine": "cosine", "distance": "distance, patches", "within_one_patch": "within a patch %"}
"""Heading of each column of the report's table, by key."""
MAX_CHANCE_QUERIES = 256
"""Maximum number of patches of a view that the chance level is computed from."""


@dataclass(frozen=True)
class MatchesOptions:
    """Options of the matching."""

    match_fraction: float = LossConfig().match_fraction
    """Matches kept in each direction, as a fraction of the patches."""
    size: int | None = None
    """Side of the views, in pixels; None means the models' own size."""


class ViewPair(NamedTuple):
    """Two views to match: two crops of one image, or two whole images."""

    a: View
    b: View
    same_image: bool
    """True if both views are of one image, so that the true correspondence is known."""
    name: str
    """Name of the file, or of both files."""
    preprocessing: Preprocessing = Preprocessing()
    """Preprocessing of the models, which says what the samples are."""


class PatchMatches(NamedTuple):
    """Matched pairs of patches: first the matches from `a` to `b`, then those from `b` to `a`."""

    a: np.ndarray
    """Patch indices in the first view, row by row, (2K,)."""
    b: np.ndarray
    """Patch indices in the second view, row by row, (2K,)."""
    cosine: np.ndarray
    """Cosines of the matched tokens, (2K,)."""
    forward: np.ndarray
    """True if the match is from `a` to `b`, (2K,) bool."""


def matches(
    models: Sequence[Model],
    paths: Sequence[Path | tuple[Path, Path]],
    options: MatchesOptions = MatchesOptions(),  # frozen
    seeds: Sequence[int] = (0,),
    on_progress: ProgressCallback = no_progress,
) -> Report:
    """Match patches as the correspondence loss does (eq. 3 of the paper), and measure the matches.

    Each patch of a view is matched with its nearest neighbor by cosine in the other view, in both directions; the K
    best matches of each direction are kept. For two views (crop and rotation) of one image, the distance of a match is
    that between the matched patch and the true position of the patch that it matches, in patches of the coarsest grid
    of the models. The true position may lie outside of the other view; such a match counts as wrong.

    Args:
        models: Models to compare; all get the same views.
        paths: Images, with two views of each; or pairs of images. Unreadable images and their pairs are skipped.
        options: Options of the matching.
        seeds: Seeds of the views.
        on_progress: Progress callback.

    Raises:
        ValueError: Nothing can be read, or the models share no size.
    """
    size = common_size(models, options.size)
    unit = coarsest_grid(models, size)
    rows: list[dict[str, Any]] = []
    guesses: list[tuple[float, float]] = []
    for seed in seeds:
        pairs = ViewPairs(paths, seed, size, on_progress, models[0].runner.preprocessing)
        values: dict[str, list[tuple[float, float, float]]] = {model.name: [] for model in models}
        for pair in pairs:
            for model in models:
                values[model.name].append(_measure(pair, *feature_maps(model, pair), options.match_fraction, unit))
            if pair.same_image:
                guesses.append(chance_of_matches(pair, unit))
        for name, measured in values.items():
            columns = zip(MEASURES, np.array(measured).T, strict=True)
            row: dict[str, Any] = {"model": name, "seed": seed}
            rows.append(row | {key: value for k, column in columns for key, value in mean_with_ci(k, column).items()})
    measures = {key: heading for key, heading in MEASURES.items() if pairs.same_image or key == "cosine"}
    kind = "two views of an image" if pairs.same_image else "two images"
    settings = asdict(options) | {
        "size": size,
        "grid": list(unit),
        "pairs": kind,
        "interval": "95%, normal, over pairs",
    }
    title = f"matched patches of {kind}, {len(measured)} pairs"
    chance = (
        dict(zip(("distance", "within_one_patch"), np.mean(guesses, axis=0).tolist(), strict=True)) if guesses else {}
    )
    return Report("matches", title, measures, rows, settings | pairs.report_settings(), chance)


class ViewPairs:
    """Iterable over the view pairs of a list of images, or of a list of image pairs."""

    def __init__(
        self,
        paths: Sequence[Path | tuple[Path, Path]],
        seed: int,
        size: int,
        on_progress: ProgressCallback = no_progress,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self.same_image = not paths or isinstance(paths[0], Path)
        flat = [path for item in paths for path in (item if isinstance(item, tuple) else (item,))]
        self.images, self.size = EvalImages(flat, seed, on_progress, preprocessing or Preprocessing()), size

    def __iter__(self) -> Iterator[ViewPair]:
        """Yield the pairs; raise `ValueError` at the end if there was none."""
        yield from (pair._replace(preprocessing=self.images.preprocessing) for pair in self._pairs())

    def _pairs(self) -> Iterator[ViewPair]:
        if self.same_image:
            yield from (_two_views(image, self.size) for image in self.images)
            return
        first: tuple[EvalImage, View] | None = None
        count = 0
        for image in self.images:
            pixels = crop_and_rotate(image.pixels, image.full_box, 0, self.size)
            view = View(torch.tensor(image.full_box).double(), 0, pixels)
            if image.index % 2 == 0:
                first = image, view
            elif first and first[0].index == image.index - 1:
                count += 1
                yield ViewPair(first[1], view, False, f"{first[0].path.name} and {image.path.name}")
        if not count:
            raise ValueError("no pair has two images that can be read")

    def report_settings(self) -> dict[str, Any]:
        """Return the number of images and the skipped files, for the settings of a report."""
        return self.images.report_settings()


def match_patches(map_a: np.ndarray, map_b: np.ndarray, match_fraction: float) -> PatchMatches:
    """Match the patches of two feature maps by cosine nearest neighbors, and keep the best K of each direction.

    Args:
        map_a, map_b: (D, h, w) feature maps.
        match_fraction: K as a fraction of the patches of `map_a`; ties go to the first patch.
    """
    similarity = cosine_matrix(map_a, map_b)
    k = min(max(1, round(match_fraction * similarity.shape[0])), similarity.shape[1])
    to_b, to_a = similarity.argmax(axis=1), similarity.argmax(axis=0)
    from_a = np.argsort(-similarity.max(axis=1), kind="stable")[:k]
    from_b = np.argsort(-similarity.max(axis=0), kind="stable")[:k]
    a, b = np.concatenate([from_a, to_a[from_b]]), np.concatenate([to_b[from_a], from_b])
    return PatchMatches(a, b, similarity[a, b], np.arange(len(a)) < k)


def match_distances(
    patch_matches: PatchMatches, pair: ViewPair, grid: tuple[int, int], unit: tuple[int, int]
) -> np.ndarray:
    """Return the (2K,) distances of the matches on an (h, w) grid, in patches of `unit`, from the true positions."""
    a, b = pair.a, pair.b
    centers = patch_centers(*grid)
    in_b = map_points_between_views(centers, a.box, a.rotation, b.box, b.rotation).numpy()
    in_a = map_points_between_views(centers, b.box, b.rotation, a.box, a.rotation).numpy()
    prediction = np.where(
        patch_matches.forward[:, None], centers.numpy()[patch_matches.b], centers.numpy()[patch_matches.a]
    )
    truth = np.where(patch_matches.forward[:, None], in_b[patch_matches.a], in_a[patch_matches.b])
    return patch_distance(prediction, truth, *unit)


def within_one_patch(distances: np.ndarray) -> np.ndarray:
    """Return whether distances (N,), in patches, count as right: (N,) bool."""
    return np.asarray(distances <= 1 + 1e-6)


def chance_of_matches(pair: ViewPair, grid: tuple[int, int]) -> tuple[float, float]:
    """Return the expected distance in patches, and percentage within a patch, of a uniformly random patch."""
    count = grid[0] * grid[1]
    queries = np.arange(0, count, -(-count // MAX_CHANCE_QUERIES))
    query, guess = np.repeat(queries, count), np.tile(np.arange(count), len(queries))
    cosine, forward = np.zeros(len(query)), np.ones(len(query), bool)
    distances = [
        match_distances(PatchMatches(query, guess, cosine, forward), pair, grid, grid),
        match_distances(PatchMatches(guess, query, cosine, ~forward), pair, grid, grid),
    ]
    return float(np.mean(distances)), 100 * float(within_one_patch(np.concatenate(distances)).mean())


def feature_maps(model: Model, pair: ViewPair) -> tuple[np.ndarray, np.ndarray]:
    """Compute the (D, h, w) feature maps of the two views of a pair."""
    maps = encode(model.runner, [pair.a.image, pair.b.image]).feature_map
    return maps[0], maps[1]


def _two_views(image: EvalImage, size: int) -> ViewPair:
    views, conditions = sample_views(image, CorrespondenceOptions(), size)
    first, second = conditions["crop_rotation"]
    return ViewPair(views[first], views[second], True, image.path.name)


def _measure(
    pair: ViewPair, map_a: np.ndarray, map_b: np.ndarray, match_fraction: float, unit: tuple[int, int]
) -> tuple[float, float, float]:
    """Return the mean cosine, the mean distance in patches, and the percentage of distances up to one patch.

    The last two are NaN for two images.
    """
    patch_matches = match_patches(map_a, map_b, match_fraction)
    if not pair.same_image:
        return float(patch_matches.cosine.mean()), np.nan, np.nan
    distance = match_distances(patch_matches, pair, (map_a.shape[1], map_a.shape[2]), unit)
    return float(patch_matches.cosine.mean()), float(distance.mean()), 100 * float(within_one_patch(distance).mean())
