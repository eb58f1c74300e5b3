"""k-NN and linear classification of frozen embeddings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from gtsa_kit.data.labeled import ClassificationDataset, stratified_split
from gtsa_kit.data.skipped import skipped_settings
from gtsa_kit.evaluation.embeddings import DatasetEmbedder, LabeledEmbeddings, embed_dataset
from gtsa_kit.evaluation.logistic_regression import LabeledVectors, fit_logistic_regression
from gtsa_kit.evaluation.models import Model, embedding_settings
from gtsa_kit.evaluation.support.lazy_imports import import_sklearn
from gtsa_kit.evaluation.support.report import Report, enumerate_names
from gtsa_kit.evaluation.support.statistics import wilson_interval
from gtsa_kit.knn import KNNClassifier
from gtsa_kit.progress import ProgressCallback, no_progress

TEMPERATURE = 0.07
"""Default temperature of the k-NN weights, DINO's."""
C_VALUES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of scikit-learn's C (inverse regularization strength) that the linear probe chooses from."""
MEASURES = {"top1": "top-1 %", "top1_low": "95% from", "top1_high": "to", "top5": "top-5 %"}
"""Heading of each column of the report's table, by key."""


@dataclass(frozen=True)
class ProbeOptions:
    """Options of both probes."""

    seeds: int = 5
    """Number of seeds, for the split (where the dataset has none) and for the choice of C."""
    val_share: float = 0.2
    """Fraction of each class for validation, where the dataset has no split."""
    size: int | None = None
    """Side of the input, in pixels; None means the model's own size."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for values out of range."""
        if self.seeds < 1 or not 0 < self.val_share < 1:
            raise ValueError(f"seeds must be at least 1 and val_share between 0 and 1, got {self}")


SplitScorer = Callable[[LabeledVectors, LabeledVectors, int], Iterator[tuple[Mapping[str, Any], np.ndarray]]]
"""Function from (training part, validation part, seed) to pairs of further report columns and (Q, C) validation scores.
A class with score -inf is never predicted."""


def knn(
    models: Sequence[Model],
    data: ClassificationDataset,
    options: ProbeOptions = ProbeOptions(),
    ks: tuple[int, ...] = (20,),
    temperature: float = TEMPERATURE,
    on_progress: ProgressCallback = no_progress,
    embed: DatasetEmbedder = embed_dataset,
) -> Report:
    """Evaluate weighted k-nearest-neighbor classification by cosine, as in DINO.

    A dataset with a split leaves nothing random, so it is evaluated once, whatever the number of seeds.

    Args:
        models: Models to compare.
        data: Images and their classes.
        options: Options of the probe.
        ks: Numbers of neighbors; each has its own rows.
        temperature: Temperature of the weights exp(cosine / temperature).
        on_progress: Progress callback.
        embed: Function that embeds the dataset; share one `cached_embedder` among several probes.

    Raises:
        ValueError: A number of neighbors is below 1, the temperature is not positive, or no image can be read.
    """
    if min(ks) < 1 or temperature <= 0:
        raise ValueError(f"k must be at least 1 and the temperature above 0, got {ks} and {temperature}")

    def score(train: LabeledVectors, val: LabeledVectors, seed: int) -> Iterator[tuple[Mapping[str, Any], np.ndarray]]:
        one_hot = np.eye(len(data.classes), dtype=np.float32)[train.labels]
        scores = KNNClassifier(train.vectors, one_hot).scores(val.vectors, ks, temperature)
        for k, k_scores in zip(ks, scores, strict=True):
            yield {"k": k, "train": len(train.labels)}, np.where(k_scores > 0, k_scores, -np.inf)

    seeds = options.seeds if data.validation is None else 1
    report = _run("knn", models, data, options, seeds, score, on_progress, embed)
    rows, notes, fewest = report.rows, report.notes, min(row["train"] for row in report.rows)
    if len(ks) > 1:
        rows = [{**row, "model": f"{row['model']}, k = {row['k']}"} for row in rows]
    if max(ks) > fewest:
        notes = (*notes, f"k = {max(ks)} is more than the {fewest} training images, so all of them vote")
    settings = {**report.settings, "k": list(ks), "temperature": temperature, "features": "embedding, cosine"}
    return replace(report, title=f"k-NN, {report.title}", rows=rows, settings=settings, notes=notes)


def linear(
    models: Sequence[Model],
    data: ClassificationDataset,
    options: ProbeOptions = ProbeOptions(),
    c_values: tuple[float, ...] = C_VALUES,
    on_progress: ProgressCallback = no_progress,
    embed: DatasetEmbedder = embed_dataset,
) -> Report:
    """Evaluate multinomial logistic regression on standardized embeddings.

    The regularization is chosen on a part of the training images; then the model is fitted on all of them.

    Args:
        models: Models to compare.
        data: Images and their classes.
        options: Options of the probe.
        c_values: Values of scikit-learn's C to choose from.
        on_progress: Progress callback.
        embed: Function that embeds the dataset; share one `cached_embedder` among several probes.

    Raises:
        ValueError: scikit-learn is missing, or no image can be read.
    """
    import_sklearn()

    def score(train: LabeledVectors, val: LabeledVectors, seed: int) -> Iterator[tuple[Mapping[str, Any], np.ndarray]]:
        scores, fit = fit_logistic_regression(train, val.vectors, len(data.classes), c_values, seed)
        yield fit | {"train": len(train.labels)}, scores

    report = _run("linear", models, data, options, options.seeds, score, on_progress, embed)
    settings = {**report.settings, "c_values": list(c_values), "features": "embedding, standardized"}
    return replace(report, title=f"linear probe, {report.title}", settings=settings)


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the (N,) ranks, from 0, of the true classes among (N, C) scores; ties go to the lower class.

    A true class with score -inf has the rank C.
    """
    true_scores = np.take_along_axis(scores, labels[:, None], axis=1)
    before = (scores > true_scores) | ((scores == true_scores) & (np.arange(scores.shape[1]) < labels[:, None]))
    result: np.ndarray = np.where(np.isneginf(true_scores[:, 0]), scores.shape[1], before.sum(axis=1))
    return result


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return top-1 accuracy with its interval, and top-5 for more than five classes, in percent.

    Args:
        scores: (N, C) class scores.
        labels: (N,) true classes.
    """
    true_ranks, count = ranks(scores, labels), len(labels)
    correct = int((true_ranks < 1).sum())
    low, high = wilson_interval(correct, count)
    top5 = 100 * float((true_ranks < 5).mean()) if scores.shape[1] > 5 else None
    return {"top1": 100 * correct / count, "top1_low": 100 * low, "top1_high": 100 * high, "top5": top5, "val": count}


def _run(
    name: str,
    models: Sequence[Model],
    data: ClassificationDataset,
    options: ProbeOptions,
    seeds: int,
    score: SplitScorer,
    on_progress: ProgressCallback,
    embed: DatasetEmbedder,
) -> Report:
    """Return the report of every model and seed; its title describes the dataset."""
    rows: list[dict[str, Any]] = []
    first: LabeledEmbeddings | None = None
    for model in models:
        embedded = embed(model, data, options.size, on_progress)
        if first and first.skipped != embedded.skipped:
            raise ValueError(
                f"{model.name} and {models[0].name} read different images; keep the files unchanged and repeat"
            )
        first = first or embedded
        for seed in range(seeds):
            rows += [
                {"model": model.name, "seed": seed, "input": list(embedded.input_size)} | columns
                for columns in _split_rows(embedded, options.val_share, seed, score)
            ]
            on_progress(f"probing {model.name}", seed + 1, seeds)
    assert first is not None
    split = {"split": "given"} if data.validation is not None else {"split": "random", "val_share": options.val_share}
    dataset = {"images": len(first.labels), "classes": list(first.classes), **split}
    interval = {"interval": "Wilson, 95%, of one run's validation images"}
    settings = asdict(options) | {"seeds": seeds} | dataset | interval | skipped_settings(first.skipped)
    settings |= embedding_settings(models)
    title = f"{len(first.classes)} classes, {len(first.labels)} images"
    chance = _chance(first, options.val_share, seeds)
    return Report(name, title, MEASURES, rows, settings, chance, _notes_on_classes(first))


def _notes_on_classes(embedded: LabeledEmbeddings) -> tuple[str, ...]:
    """Return a note on the classes that a given split leaves without a validation image."""
    if embedded.validation is None:
        return ()
    present = set(embedded.labels[embedded.validation].tolist())
    absent = [name for number, name in enumerate(embedded.classes) if number not in present]
    return (f"no validation image of {enumerate_names(absent)}",) if absent else ()


def _chance(embedded: LabeledEmbeddings, val_share: float, seeds: int) -> dict[str, float]:
    """Return the accuracy of naming the most frequent classes of the validation images, averaged over the seeds."""
    results = []
    for seed in range(seeds):
        labels = embedded.labels[_validation(embedded, val_share, seed)]
        counts = np.bincount(labels, minlength=len(embedded.classes)).astype(np.float64)
        results.append(accuracies(np.tile(counts, (len(labels), 1)), labels))
    means = {key: [result[key] for result in results if result[key] is not None] for key in ("top1", "top5")}
    return {key: float(np.mean(values)) for key, values in means.items() if values}


def _split_rows(
    embedded: LabeledEmbeddings, val_share: float, seed: int, score: SplitScorer
) -> Iterator[dict[str, Any]]:
    """Split the images, probe them, and yield the columns of each report row."""
    labels, val = embedded.labels, _validation(embedded, val_share, seed)
    train_part = LabeledVectors(embedded.vectors[~val], labels[~val])
    val_part = LabeledVectors(embedded.vectors[val], labels[val])
    for columns, scores in score(train_part, val_part, seed):
        # Columns of classes that have no readable images are empty.
        yield accuracies(scores[:, : len(embedded.classes)], val_part.labels) | dict(columns)


def _validation(embedded: LabeledEmbeddings, val_share: float, seed: int) -> np.ndarray:
    """Return the (N,) mask of the validation images: the dataset's, or a random part of each class."""
    given = embedded.validation
    return stratified_split(embedded.labels, val_share, seed) if given is None else given
