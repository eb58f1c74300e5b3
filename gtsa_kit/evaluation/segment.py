"""Semantic segmentation by probes of frozen patch tokens, measured at the full resolution of the masks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from gtsa_kit.data.label_map import VOID
from gtsa_kit.data.labeled import left_out_settings
from gtsa_kit.data.labeled_masks import SegmentationDataset
from gtsa_kit.evaluation.dense_probes import (
    LinearRecipe,
    NeighborRecipe,
    Scorer,
    fit_linear,
    fit_neighbors,
    predict,
)
from gtsa_kit.evaluation.dense_tokens import Framing, Tokens, compute_tokens
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.support.intervals import bootstrap
from gtsa_kit.evaluation.support.lazy_imports import torchmetrics
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.progress import ProgressCallback, no_progress

PROBES = ("linear", "knn")
MEASURES = {"miou": "mIoU %", "miou_low": "95% from", "miou_high": "to", "aacc": "aAcc %", "macc": "mAcc %"}


@dataclass(frozen=True)
class SegmentOptions:
    """Everything but models, images and progress."""

    framing: Framing = field(default_factory=Framing)
    probes: tuple[str, ...] = PROBES
    seeds: int = 3
    """Of the split, where it is drawn; of the linear layer's start and order; of the patches that are kept."""
    val_share: float = 0.2
    """Where the split is drawn."""
    linear: LinearRecipe = field(default_factory=LinearRecipe)
    neighbors: NeighborRecipe = field(default_factory=NeighborRecipe)

    def __post_init__(self) -> None:
        """Refuse what can't be."""
        if not self.probes or not set(self.probes) <= set(PROBES):
            raise ValueError(f"probes are {' and '.join(PROBES)}, got {', '.join(self.probes) or 'none'}")
        if self.seeds < 1 or not 0 < self.val_share < 1:
            raise ValueError(f"seeds are at least 1 and the share is between 0 and 1, got {self}")


def segment(
    models: Sequence[Model],
    data: SegmentationDataset,
    options: SegmentOptions | None = None,
    tell: ProgressCallback = no_progress,
) -> Report:
    """Probe models on images with masks.

    mIoU, aAcc and mAcc are mmsegmentation's: from the pixels of all validation images together; a class that is
    neither there nor predicted does not count in mIoU, one that is not there does not count in mAcc. Void pixels count
    nowhere. The interval of mIoU is a bootstrap over images: frames of one video are more alike than it assumes.

    Args:
        models: To compare.
        data: Images and masks.
        options: None is all defaults.
        tell: Told of the progress.
    """
    torchmetrics()
    options = options or SegmentOptions()
    rows: list[dict[str, Any]] = []
    for model in models:
        with compute_tokens(model.runner, data, options.framing, tell, f"tokens of {model.name}") as tokens:
            sizes = sorted({place.size for own in tokens.photos for place in own})
            for seed in range(options.seeds):
                for probe in options.probes:
                    named = {"model": f"{model.name}, {probe}", "encoder": model.name, "probe": probe, "seed": seed}
                    found = _probe(tokens, data, probe, seed, options, tell, f"{probe} probe of {model.name}")
                    rows.append(named | found | {"inputs": [list(size) for size in sizes[:10]]})
    split = {"split": "given"} if data.given else {"split": "drawn"}
    settings = asdict(options) | split | {"images": len(data.pairs), "classes": list(data.classes)}
    settings |= {"interval": "bootstrap, 95%, over one run's validation images"} | left_out_settings(data.skipped)
    title = f"segmentation, {len(data.classes)} classes, {len(data.pairs)} images"
    return Report("segment", title, MEASURES, rows, settings)


def counts_of(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(3, classes) int64 of (H, W) maps: pixels that agree, that are of a class, that are predicted as one; no void."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    target = torch.from_numpy(labels.astype(np.int64))
    table = multiclass_confusion_matrix(
        torch.from_numpy(predicted), target, classes, ignore_index=VOID, validate_args=False
    ).numpy()
    return np.stack([np.diag(table), table.sum(1), table.sum(0)])


def measures_of(counts: np.ndarray) -> dict[str, Any]:
    """Measures in percent, and the IoU of each class (None if it is neither there nor predicted), of summed counts."""
    agree, there, _ = counts.astype(np.float64)
    iou = _iou(counts)
    recall = np.divide(agree, there, out=np.full_like(agree, np.nan), where=there > 0)
    return {
        "miou": 100 * float(np.nanmean(iou)),
        "aacc": 100 * float(agree.sum() / there.sum()),
        "macc": 100 * float(np.nanmean(recall)),
        "iou": [None if np.isnan(value) else 100 * float(value) for value in iou],
    }


def _probe(
    tokens: Tokens,
    data: SegmentationDataset,
    probe: str,
    seed: int,
    options: SegmentOptions,
    tell: ProgressCallback,
    what: str,
) -> dict[str, Any]:
    """Train on one side of the split, and measure on the other."""
    val = data.validation(options.val_share, seed)
    train = tokens.places(~val)
    if not any(tokens.shares[place.cells].any() for place in train):
        raise ValueError("every pixel of the training masks is void; check --ignore and --colors")
    score: Scorer
    if probe == "linear":
        score = fit_linear(tokens, train, seed, options.linear)
    else:
        score = fit_neighbors(tokens, train, seed, options.neighbors)
    chosen = np.flatnonzero(val).tolist()
    counts, pixels = np.zeros((len(chosen), 3, len(data.classes)), np.int64), 0
    for done, photo in enumerate(chosen):
        pair = data.pairs[photo]
        pixels += pair.height * pair.width
        found = predict(tokens, tokens.photos[photo], (pair.height, pair.width), score)
        counts[done] = counts_of(found, data.labels(pair), len(data.classes))
        tell(f"{what}, seed {seed}", done + 1, len(chosen))
    if not counts[:, 1].any():
        raise ValueError("every pixel of the validation masks is void; check --ignore and --colors")
    measured = measures_of(counts.sum(0))
    low, high = bootstrap(_miou, counts)
    return measured | {
        "iou": dict(zip(data.classes, measured["iou"], strict=True)),
        "miou_low": low,
        "miou_high": high,
        "train": int((~val).sum()),
        "val": len(chosen),
        "void": 100 * (1 - float(counts[:, 1].sum() / pixels)),  # a table of colors may have missed some
    }


def _miou(counts: np.ndarray) -> float:
    iou = _iou(counts)
    return 100 * float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan")


def _iou(counts: np.ndarray) -> np.ndarray:
    """(classes,), NaN of a class that is neither there nor predicted."""
    agree, there, predicted = counts.astype(np.float64)
    union = there + predicted - agree
    iou: np.ndarray = np.divide(agree, union, out=np.full_like(agree, np.nan), where=union > 0)
    return iou
