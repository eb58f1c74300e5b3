"""k-NN and linear classification of frozen embeddings: how well classes lie apart in what an encoder has learnt."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gtsa_kit.data.labeled import ClassificationDataset, left_out_settings, stratified
from gtsa_kit.evaluation.embeddings import Embed, Embedded, embed_labeled
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.support.intervals import wilson
from gtsa_kit.evaluation.support.knn import KNNClassifier
from gtsa_kit.evaluation.support.lazy_imports import sklearn
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.progress import ProgressCallback, no_progress

TEMPERATURE = 0.07
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the regularisation (scikit-learn's C) that are tried."""
CHOOSING_SHARE = 0.2
"""Of the training images, to choose the strength on."""
MOST_STEPS = 1000
"""Of the solver."""
FEW_WEIGHTS = 1500
"""Up to as many a regression is fitted by Newton's method, in five steps for some hundred of L-BFGS: a third of the
time at 192 features and 6 classes."""
MEASURES = {"top1": "top-1 %", "top1_low": "95% from", "top1_high": "to", "top5": "top-5 %"}


@dataclass(frozen=True)
class ProbeOptions:
    """What both probes share."""

    seeds: int = 5
    """Of the splits, where they are drawn, and of the part that the strength is chosen on."""
    val_share: float = 0.2
    """Of each class, where the split is drawn."""
    size: int | None = None
    """Side of the input; None is the model's own."""

    def __post_init__(self) -> None:
        """Refuse what can't be."""
        if self.seeds < 1 or not 0 < self.val_share < 1:
            raise ValueError(f"seeds are at least 1 and the share is between 0 and 1, got {self}")


@dataclass(frozen=True)
class Part:
    """Images of one side of a split."""

    vectors: np.ndarray
    """(N, D)"""
    labels: np.ndarray
    """(N,), below the number of classes."""


Scored = Iterable[tuple[Mapping[str, Any], np.ndarray]]
"""(what else belongs into the row, scores (Q, C): -inf is never chosen)."""


def knn(
    models: Sequence[Model],
    data: ClassificationDataset,
    options: ProbeOptions = ProbeOptions(),
    ks: tuple[int, ...] = (20,),
    temperature: float = TEMPERATURE,
    tell: ProgressCallback = no_progress,
    embed: Embed = embed_labeled,
) -> Report:
    """Weighted k-nearest-neighbor classification by cosine, DINO's protocol.

    A split that is given leaves nothing to chance, so that there is one run whatever the number of seeds.

    Args:
        models: To compare.
        data: Images and their classes.
        options: Seeds, split, size.
        ks: Numbers of neighbors; with several, each has rows of its own.
        temperature: Of the weights exp(cosine / temperature).
        tell: Told of the progress.
        embed: Gives the embeddings; one `embed_once` for several probes spares doing it again.
    """
    if min(ks) < 1 or temperature <= 0:
        raise ValueError(f"k is at least 1 and the temperature above 0, got {ks} and {temperature}")

    def score(train: Part, val: Part, seed: int) -> Iterator[tuple[Mapping[str, Any], np.ndarray]]:
        one_hot = np.eye(len(data.classes), dtype=np.float32)[train.labels]
        found = KNNClassifier(train.vectors, one_hot).vote(val.vectors, ks, temperature)
        for k, votes in zip(ks, found, strict=True):
            named = {"k": k, "train": len(train.labels)}
            yield named, np.where(votes > 0, votes, -np.inf)

    seeds = options.seeds if data.validation is None else 1
    rows, settings = _run(models, data, options, seeds, score, tell, embed)
    if len(ks) > 1:
        rows = [{**row, "model": f"{row['model']}, k = {row['k']}"} for row in rows]
    settings |= {"k": list(ks), "temperature": temperature, "features": "embedding, cosine"}
    return Report("knn", f"k-NN, {_described(data)}", MEASURES, rows, settings)


def linear(
    models: Sequence[Model],
    data: ClassificationDataset,
    options: ProbeOptions = ProbeOptions(),
    strengths: tuple[float, ...] = STRENGTHS,
    tell: ProgressCallback = no_progress,
    embed: Embed = embed_labeled,
) -> Report:
    """Multinomial logistic regression on standardized embeddings.

    The regularisation is chosen on a part of the training images, then all of them are fitted.

    Args:
        models: To compare.
        data: Images and their classes.
        options: Seeds, split, size.
        strengths: scikit-learn's C to choose from.
        tell: Told of the progress.
        embed: Gives the embeddings; one `embed_once` for several probes spares doing it again.
    """
    sklearn()

    def score(train: Part, val: Part, seed: int) -> Scored:
        scores, about = logistic(train, val.vectors, len(data.classes), strengths, seed)
        return [(about | {"train": len(train.labels)}, scores)]

    rows, settings = _run(models, data, options, options.seeds, score, tell, embed)
    settings |= {"strengths": list(strengths), "features": "embedding, standardized"}
    return Report("linear", f"linear probe, {_described(data)}", MEASURES, rows, settings)


def logistic(
    train: Part, queries: np.ndarray, classes: int, strengths: Sequence[float], seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Scores (Q, classes), and the strength chosen, by which solver.

    Args:
        train: To fit.
        queries: (Q, D).
        classes: How many there are; those without training images are never chosen.
        strengths: To choose from; equal ones: the stronger regularisation.
        seed: Of the part to choose on.
    """
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped, unused-ignore]

    scaler = StandardScaler().fit(train.vectors.astype(np.float64))
    scaled = Part(scaler.transform(train.vectors.astype(np.float64)), train.labels)
    held = stratified(scaled.labels, CHOOSING_SHARE, seed)
    strength = strengths[0]
    if len(strengths) > 1 and held.any():
        rest = Part(scaled.vectors[~held], scaled.labels[~held])
        right = [
            int((fitted.predict(scaled.vectors[held]) == scaled.labels[held]).sum())
            for fitted in _fits(rest, strengths)
        ]
        strength = strengths[int(np.argmax(right))]
    fitted = next(_fits(scaled, (strength,)))
    converged = bool(np.max(fitted.n_iter_) < MOST_STEPS)
    scores = np.full((len(queries), classes), -np.inf)
    scores[:, fitted.classes_] = fitted.predict_log_proba(scaler.transform(queries.astype(np.float64)))
    return scores, {"strength": strength, "solver": fitted.solver, "converged": converged}


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) places, from 0, of the true classes among (N, C) scores; of equal scores the lower class comes first.

    A true class that is never chosen (-inf) comes last.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    found: np.ndarray = np.where(np.isneginf(own[:, 0]), scores.shape[1], before.sum(axis=1))
    return found


def _fits(part: Part, strengths: Sequence[float]) -> Iterator[Any]:
    """The fitted regression at each strength in turn; each starts where the one before ended, which is near."""
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped, unused-ignore]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped, unused-ignore]

    small = part.vectors.shape[1] * len(np.unique(part.labels)) <= FEW_WEIGHTS
    solver = "newton-cholesky" if small else "lbfgs"
    model = LogisticRegression(max_iter=MOST_STEPS, warm_start=True, solver=solver)
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the report says it
            yield model.set_params(C=strength).fit(part.vectors, part.labels)


def _run(
    models: Sequence[Model],
    data: ClassificationDataset,
    options: ProbeOptions,
    seeds: int,
    score: Callable[[Part, Part, int], Scored],
    tell: ProgressCallback,
    embed: Embed,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of every model and seed, and the settings."""
    rows: list[dict[str, Any]] = []
    first: Embedded | None = None
    for model in models:
        seen = embed(model, data, options.size, tell)
        if first and first.skipped != seen.skipped:
            raise ValueError(f"{model.name} could read other images than {models[0].name}; are they changing?")
        first = first or seen
        for seed in range(seeds):
            val = stratified(seen.labels, options.val_share, seed) if seen.validation is None else seen.validation
            train = Part(seen.vectors[~val], seen.labels[~val])
            held = Part(seen.vectors[val], seen.labels[val])
            for about, scores in score(train, held, seed):
                row = {"model": model.name, "seed": seed, "input": list(seen.size)}
                rows.append(row | accuracies(scores, held.labels) | dict(about))
            tell(f"probing {model.name}", seed + 1, seeds)
    assert first is not None
    split = {"split": "given"} if data.validation is not None else {"split": "drawn", "val_share": options.val_share}
    about_split = {"images": len(first.labels), "classes": list(data.classes), **split}
    interval = "Wilson, 95%, of one run's validation images"
    return rows, asdict(options) | {"seeds": seeds} | about_split | {"interval": interval} | left_out_settings(
        first.skipped
    )


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Top-1 with its interval, and top-5 where there are more than five classes; in percent."""
    places, count = ranks(scores, labels), len(labels)
    right = int((places < 1).sum())
    low, high = wilson(right, count)
    top5 = 100 * float((places < 5).mean()) if scores.shape[1] > 5 else None
    return {"top1": 100 * right / count, "top1_low": 100 * low, "top1_high": 100 * high, "top5": top5, "val": count}


def _described(data: ClassificationDataset) -> str:
    return f"{len(data.classes)} classes, {len(data.paths)} images"
