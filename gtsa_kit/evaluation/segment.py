"""Semantic segmentation by probes of frozen patch tokens, measured at the full resolution of the masks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from gtsa_kit.data.label_map import VOID
from gtsa_kit.data.labeled_masks import SegmentationDataset
from gtsa_kit.data.skipped import skipped_settings
from gtsa_kit.evaluation.dense_probes import KNNProbeOptions, LinearProbeOptions, Scorer, fit_knn, fit_linear, predict
from gtsa_kit.evaluation.dense_tokens import InputOptions, PatchTokens, TokenSpan, compute_patch_tokens
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.support.lazy_imports import import_torchmetrics
from gtsa_kit.evaluation.support.report import Report, enumerate_names
from gtsa_kit.evaluation.support.statistics import bootstrap_interval
from gtsa_kit.progress import ProgressCallback, no_progress

PROBES = ("linear", "knn")
MEASURES = {"miou": "mIoU %", "miou_low": "95% from", "miou_high": "to", "aacc": "aAcc %", "macc": "mAcc %"}
"""Heading of each column of the report's table, by key."""

PredictionCallback = Callable[[str, int, int, np.ndarray], None]
"""Function that gets the name of a report row, its seed, the index of a validation image, and its (H, W) classes."""


@dataclass(frozen=True)
class SegmentOptions:
    """Options of the segmentation evaluation."""

    input: InputOptions = field(default_factory=InputOptions)
    """Input size and tiling."""
    probes: tuple[str, ...] = PROBES
    """Names of the probes."""
    seeds: int = 3
    """Number of seeds, for the split (where the dataset has none), the linear layer and the subsampling of patches."""
    val_share: float = 0.2
    """Fraction of the images for validation, where the dataset has no split."""
    linear: LinearProbeOptions = field(default_factory=LinearProbeOptions)
    """Options of the linear probe."""
    knn: KNNProbeOptions = field(default_factory=KNNProbeOptions)
    """Options of the k-NN probe."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for values out of range."""
        if not self.probes or not set(self.probes) <= set(PROBES):
            raise ValueError(f"probes are {' and '.join(PROBES)}, got {', '.join(self.probes) or 'none'}")
        if self.seeds < 1 or not 0 < self.val_share < 1:
            raise ValueError(f"seeds must be at least 1 and val_share between 0 and 1, got {self}")


def segment(
    models: Sequence[Model],
    data: SegmentationDataset,
    options: SegmentOptions | None = None,
    on_progress: ProgressCallback = no_progress,
    on_prediction: PredictionCallback = lambda *_: None,
) -> Report:
    """Evaluate probes of frozen patch tokens on images with masks.

    mIoU, aAcc and mAcc are defined as in mmsegmentation, over the pixels of all validation images together. A class
    that is neither in the masks nor predicted does not count in mIoU; one that is not in the masks does not count in
    mAcc. Void pixels are ignored. The interval of mIoU is a bootstrap over images. It assumes that they are
    independent, which frames of one video are not.

    Args:
        models: Models to compare.
        data: Images and masks.
        options: Options; None means the defaults.
        on_progress: Progress callback.
        on_prediction: Called with every predicted validation image.

    Raises:
        ValueError: torchmetrics is missing, or every pixel of the training or validation masks is void.
    """
    import_torchmetrics()
    options = options or SegmentOptions()
    rows: list[dict[str, Any]] = []
    for model in models:
        with compute_patch_tokens(model.runner, data, options.input, on_progress, f"tokens of {model.name}") as tokens:
            sizes = sorted({span.input_size for image_spans in tokens.spans for span in image_spans})
            for seed in range(options.seeds):
                for probe in options.probes:
                    name = f"{model.name}, {probe}"
                    row = {"model": name, "encoder": model.name, "probe": probe, "seed": seed}
                    task = f"{probe} probe of {model.name}, seed {seed}"
                    keep = partial(on_prediction, name, seed)
                    row |= _probe(tokens, data, probe, seed, options, partial(on_progress, task), keep)
                    rows.append(row | {"inputs": [list(size) for size in sizes[:10]]})
    split = {"split": "given"} if data.has_split else {"split": "random"}
    settings = asdict(options) | split | {"images": len(data.pairs), "classes": list(data.classes)}
    settings |= {"interval": "bootstrap, 95%, over one run's validation images"} | skipped_settings(data.skipped)
    title = f"segmentation, {len(data.classes)} classes, {len(data.pairs)} images"
    chance = {key: float(np.mean([row["constant"][key] for row in rows])) for key in ("miou", "aacc", "macc")}
    return Report("segment", title, MEASURES, rows, settings, chance, _notes_on_classes(rows, data.classes))


def _notes_on_classes(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> tuple[str, ...]:
    """Return notes on the classes that have no pixels to fit on or to measure on in some seed."""
    notes = []
    texts = {"untrained": "no training pixel of {}, so no probe predicts it", "absent": "no validation pixel of {}"}
    for key, text in texts.items():
        names = [name for name in classes if any(name in row[key] for row in rows)]
        if names:
            notes.append(text.format(enumerate_names(names)))
    return tuple(notes)


def pixel_counts(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Count the correct, the labeled and the predicted pixels of each class, without void pixels.

    Args:
        predicted: (H, W) int64 classes.
        labels: (H, W) uint8 classes, or `VOID`.
        classes: Number of classes.

    Returns:
        (3, classes) int64.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    target = torch.from_numpy(labels.astype(np.int64))
    confusion = multiclass_confusion_matrix(
        torch.from_numpy(predicted), target, classes, ignore_index=VOID, validate_args=False
    ).numpy()
    return np.stack([np.diag(confusion), confusion.sum(1), confusion.sum(0)])


def segmentation_metrics(counts: np.ndarray) -> dict[str, Any]:
    """Return mIoU, aAcc, mAcc and the IoU of each class, in percent, from summed (3, classes) pixel counts.

    The IoU of a class that is neither in the masks nor predicted is None.
    """
    correct, labeled, _ = counts.astype(np.float64)
    iou = _iou(counts)
    recall = np.divide(correct, labeled, out=np.full_like(correct, np.nan), where=labeled > 0)
    return {
        "miou": 100 * float(np.nanmean(iou)),
        "aacc": 100 * float(correct.sum() / labeled.sum()),
        "macc": 100 * float(np.nanmean(recall)),
        "iou": [None if np.isnan(value) else 100 * float(value) for value in iou],
    }


def _probe(
    tokens: PatchTokens,
    data: SegmentationDataset,
    probe: str,
    seed: int,
    options: SegmentOptions,
    on_progress: Callable[[int, int], None],
    on_prediction: Callable[[int, np.ndarray], None],
) -> dict[str, Any]:
    """Fit a probe on the training images and return its metrics on the validation images."""
    val = data.validation(options.val_share, seed)
    train = tokens.spans_of(~val)
    if not _shares(tokens, train).any():
        raise ValueError("every pixel of the training masks is void; check --ignore and --labels")
    score: Scorer
    if probe == "linear":
        score = fit_linear(tokens, train, seed, options.linear)
    else:
        score = fit_knn(tokens, train, seed, options.knn)
    val_indices = np.flatnonzero(val).tolist()
    counts, pixels = np.zeros((len(val_indices), 3, len(data.classes)), np.int64), 0
    for done, index in enumerate(val_indices):
        pair = data.pairs[index]
        pixels += pair.height * pair.width
        predicted = predict(tokens, tokens.spans[index], (pair.height, pair.width), score)
        counts[done] = pixel_counts(predicted, data.labels(pair), len(data.classes))
        on_prediction(index, predicted)
        on_progress(done + 1, len(val_indices))
    if not counts[:, 1].any():
        raise ValueError("every pixel of the validation masks is void; check --ignore and --labels")
    metrics = segmentation_metrics(counts.sum(0))
    low, high = bootstrap_interval(_miou, counts)
    return metrics | {
        "iou": dict(zip(data.classes, metrics["iou"], strict=True)),
        "untrained": [name for name, share in zip(data.classes, _shares(tokens, train), strict=True) if not share],
        "absent": [name for name, pixels in zip(data.classes, counts[:, 1].sum(0), strict=True) if not pixels],
        "constant": _constant_prediction(counts.sum(0)),
        "miou_low": low,
        "miou_high": high,
        "train": int((~val).sum()),
        "val": len(val_indices),
        "void": 100 * (1 - float(counts[:, 1].sum() / pixels)),  # reveals colors that --labels does not list
    }


def _shares(tokens: PatchTokens, spans: Sequence[TokenSpan]) -> np.ndarray:
    """Return the (classes,) sums of the class shares of the patches."""
    shares: np.ndarray = np.sum([tokens.class_shares[span.rows].sum(0) for span in spans], axis=0)
    return shares


def _constant_prediction(counts: np.ndarray) -> dict[str, float]:
    """Return the metrics of predicting the most frequent class everywhere, from (3, classes) pixel counts."""
    labeled = counts[1]
    constant = np.stack([np.zeros_like(labeled), labeled, np.zeros_like(labeled)])
    best = int(labeled.argmax())
    constant[0, best], constant[2, best] = labeled[best], labeled.sum()
    metrics = segmentation_metrics(constant)
    return {key: metrics[key] for key in ("miou", "aacc", "macc")}


def _miou(counts: np.ndarray) -> float:
    iou = _iou(counts)
    return 100 * float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan")


def _iou(counts: np.ndarray) -> np.ndarray:
    """Return the (classes,) IoU, NaN for a class that is neither in the masks nor predicted."""
    correct, labeled, predicted = counts.astype(np.float64)
    union = labeled + predicted - correct
    iou: np.ndarray = np.divide(correct, union, out=np.full_like(correct, np.nan), where=union > 0)
    return iou
