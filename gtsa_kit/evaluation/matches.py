"""The patches that the correspondence loss would pull together, and how right they are: the paper's figure 3."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gtsa_kit.config import LossConfig
from gtsa_kit.data.augment import crop_and_rotate
from gtsa_kit.evaluation import correspondence as views_of
from gtsa_kit.evaluation.correspondence import View
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.scenes import Scene, Scenes, common_size, encode
from gtsa_kit.evaluation.support.estimates import mean_with_ci
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.evaluation.support.tokens import cell_centers, cosines, patch_distance
from gtsa_kit.geometry import map_points_between_views
from gtsa_kit.progress import ProgressCallback, no_progress

MEASURES = {"cosine": "cosine", "apart": "patches off", "right": "within a patch %"}


@dataclass(frozen=True)
class Settings:
    """What is matched."""

    matched: float = LossConfig().match_fraction
    """K of each way, as a share of the patches."""
    size: int | None = None
    """Side of the views; None: the models' own."""


class Pair(NamedTuple):
    """Two views; of two images, each is the whole of its own."""

    a: View
    b: View
    same: bool
    """Whether of one image, so that the true places are known."""


class Matches(NamedTuple):
    """Pairs of cells, first those that the first view's tokens chose, then those of the second's."""

    a: np.ndarray
    b: np.ndarray
    """(2K,) indices of cells, row by row."""
    cosine: np.ndarray
    """(2K,) of their tokens."""
    forward: np.ndarray
    """(2K,) bool: chosen by the first view's."""


def matches(
    models: Sequence[Model],
    paths: Sequence[Path | tuple[Path, Path]],
    settings: Settings = Settings(),  # frozen
    seeds: Sequence[int] = (0,),
    tell: ProgressCallback = no_progress,
) -> Report:
    """Match patches as the correspondence loss does (eq. 2), and say how alike the pairs are and how near the truth.

    Each patch of a view finds its cosine nearest neighbor in the other, both ways; the best K each way count. The true
    place of a patch's center is known for two views (crop and turn) of one image; it may lie outside of the other
    view, and then no match is right.

    Args:
        models: To compare; all see the same views.
        paths: Images, two views of each; or pairs of images. Broken ones are left out, and pairs with them.
        settings: What is matched.
        seeds: Of the views.
        tell: Told of the progress.

    Raises:
        ValueError: Nothing that can be read, or the models share no size.
    """
    size = common_size(models, settings.size)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        pairs = Pairs(paths, seed, size, tell)
        found: dict[str, list[tuple[float, float, float]]] = {model.name: [] for model in models}
        for pair in pairs:
            for model in models:
                found[model.name].append(_measure(pair, *maps_of(model, pair), settings.matched))
        for name, values in found.items():
            columns = zip(MEASURES, np.array(values).T, strict=True)
            row: dict[str, Any] = {"model": name, "seed": seed}
            rows.append(row | {key: value for k, column in columns for key, value in mean_with_ci(k, column).items()})
    known = {key: said for key, said in MEASURES.items() if pairs.same or key == "cosine"}
    kind = "two views of an image" if pairs.same else "two images"
    about = asdict(settings) | {"size": size, "pairs": kind, "interval": "95%, normal, over pairs"} | pairs.settings()
    return Report("matches", f"matched patches of {kind}, {len(values)} pairs", known, rows, about)


class Pairs:
    """What is matched, one pair after the other."""

    def __init__(
        self, paths: Sequence[Path | tuple[Path, Path]], seed: int, size: int, tell: ProgressCallback = no_progress
    ) -> None:
        self.same = not paths or isinstance(paths[0], Path)
        flat = [path for item in paths for path in (item if isinstance(item, tuple) else (item,))]
        self.scenes, self.size = Scenes(flat, seed, tell), size

    def __iter__(self) -> Iterator[Pair]:
        """Yields `Pair`; raises `ValueError` if there is none."""
        if self.same:
            yield from (_two_views(scene, self.size) for scene in self.scenes)
            return
        waiting: tuple[int, View] | None = None
        count = 0
        for scene in self.scenes:
            view = View(torch.tensor(scene.whole).double(), 0, crop_and_rotate(scene.pixels, scene.whole, 0, self.size))
            if scene.place % 2 == 0:
                waiting = scene.place, view
            elif waiting and waiting[0] == scene.place - 1:
                count += 1
                yield Pair(waiting[1], view, same=False)
        if not count:
            raise ValueError("of no pair both images can be read")

    def settings(self) -> dict[str, Any]:
        """For a report."""
        return self.scenes.settings()


def read_pairs(file: Path) -> list[tuple[Path, Path]]:
    """Pairs of images from a text file: two paths a line with a tab between, counted from the file's folder.

    Raises:
        ValueError: Not a text file, no pairs in it, or a line that is no pair.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file of pairs: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        names = line.strip().split("\t")
        if len(names) != 2:
            raise ValueError(f"{file}, line {number}: expected two paths with a tab between, got {line.strip()!r}")
        pairs.append((file.parent / names[0], file.parent / names[1]))
    if not pairs:
        raise ValueError(f"{file} holds no pairs; write two paths a line, with a tab between")
    return pairs


def best_matches(map_a: np.ndarray, map_b: np.ndarray, matched: float) -> Matches:
    """Nearest neighbors by cosine of two maps (D, h, w), the best K each way; K is a share of the first's patches.

    Equal cosines: the first cell.
    """
    similarity = cosines(map_a, map_b)
    k = min(max(1, round(matched * similarity.shape[0])), similarity.shape[1])
    to_b, to_a = similarity.argmax(axis=1), similarity.argmax(axis=0)
    from_a = np.argsort(-similarity.max(axis=1), kind="stable")[:k]
    from_b = np.argsort(-similarity.max(axis=0), kind="stable")[:k]
    a, b = np.concatenate([from_a, to_a[from_b]]), np.concatenate([to_b[from_a], from_b])
    return Matches(a, b, similarity[a, b], np.arange(len(a)) < k)


def distances(found: Matches, pair: Pair, shape: tuple[int, int]) -> np.ndarray:
    """(2K,) patches between where each match lies and the true place of the cell that chose it."""
    centers = cell_centers(*shape)
    in_b = map_points_between_views(centers, pair.a.box, pair.a.turn, pair.b.box, pair.b.turn).numpy()
    in_a = map_points_between_views(centers, pair.b.box, pair.b.turn, pair.a.box, pair.a.turn).numpy()
    guess = np.where(found.forward[:, None], centers.numpy()[found.b], centers.numpy()[found.a])
    truth = np.where(found.forward[:, None], in_b[found.a], in_a[found.b])
    return patch_distance(guess, truth, *shape)


def _two_views(scene: Scene, size: int) -> Pair:
    views, conditions = views_of.draw(scene, views_of.Settings(), size)
    first, second = conditions["crop_turn"]
    return Pair(views[first], views[second], same=True)


def maps_of(model: Model, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """(D, h, w) of its two views."""
    maps = encode(model.runner, [pair.a.image, pair.b.image]).feature_map
    return maps[0], maps[1]


def _measure(pair: Pair, map_a: np.ndarray, map_b: np.ndarray, matched: float) -> tuple[float, float, float]:
    """Mean cosine, and mean distance and share within a patch: NaN of two images."""
    found = best_matches(map_a, map_b, matched)
    if not pair.same:
        return float(found.cosine.mean()), np.nan, np.nan
    apart = distances(found, pair, (map_a.shape[1], map_a.shape[2]))
    return float(found.cosine.mean()), float(apart.mean()), 100 * float((apart <= 1 + 1e-6).mean())
