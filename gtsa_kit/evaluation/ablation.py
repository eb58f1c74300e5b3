"""Table 5 of the paper: what each loss brings. Three runs that differ in nothing else, probed alike."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gtsa_kit.config import RunConfig
from gtsa_kit.data.labeled import ClassificationDataset
from gtsa_kit.data.labeled_masks import SegmentationDataset
from gtsa_kit.evaluation.embeddings import embed_once
from gtsa_kit.evaluation.image_probes import ProbeOptions, knn, linear
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.segment import SegmentOptions, segment
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.progress import ProgressCallback

FOLDERS = {"l": "region", "l + l_pc": "region-correspondence", "l + l_pc + l_rp": "whole"}
"""Rows of the table, and where their runs go."""
_CHANGES: Mapping[str, dict[str, Any]] = {
    "l": {"correspondence_weight": 0.0, "rotation_weight": 0.0},
    "l + l_pc": {"rotation_weight": 0.0},
    "l + l_pc + l_rp": {},
}


def ablation_runs(config: RunConfig) -> dict[str, RunConfig]:
    """The three runs, by folder.

    Args:
        config: The whole; its weights of patch correspondence (alpha) and rotation (beta) are those of the last row.

    Raises:
        ValueError: Another method, or one of these weights is 0, so that two rows would be the same.
    """
    if config.method != "gtsa":
        raise ValueError(f"the losses of {config.method} can't be taken apart; leave out the method")
    for name in ("correspondence_weight", "rotation_weight"):
        if getattr(config.loss, name) == 0:
            raise ValueError(f"loss.{name} is 0, so two rows would be the same; leave it at its default")
    return {
        FOLDERS[row]: config.model_copy(update={"loss": config.loss.model_copy(update=changes)})
        for row, changes in _CHANGES.items()
    }


def probe_table(
    models: Sequence[Model],
    labeled: ClassificationDataset | None,
    masked: SegmentationDataset | None,
    options: tuple[ProbeOptions, SegmentOptions],
    tell: ProgressCallback,
) -> Report:
    """One row for each model and seed: classification where there are labels, segmentation where there are masks.

    Args:
        models: To compare.
        labeled: Images with classes.
        masked: Images with masks; the linear probe's measures are shown.
        options: Of the two kinds of probes.
        tell: Told of the progress.

    Raises:
        ValueError: Neither labels nor masks.
    """
    of_images, of_pixels = options
    parts: list[tuple[Report, dict[str, str], Callable[[Mapping[str, Any]], Any]]] = []
    if labeled is not None:
        embed = embed_once()
        by_neighbors = knn(models, labeled, of_images, tell=tell, embed=embed)
        by_line = linear(models, labeled, of_images, tell=tell, embed=embed)
        parts.append((by_neighbors, {"top1": "knn"}, _model))
        parts.append((by_line, {"top1": "linear", "top5": "linear5"}, _model))
    if masked is not None:
        kept = {"miou": "miou", "aacc": "aacc", "macc": "macc"}
        parts.append((segment(models, masked, of_pixels, tell), kept, _linear_encoder))
    if not parts:
        raise ValueError("nothing to probe on; name images with classes (--labeled) or with masks (--masked)")
    return merge("ablation", "what each loss brings", models, parts)


HEADINGS = {
    "knn": "k-NN top-1 %",
    "linear": "linear top-1 %",
    "linear5": "linear top-5 %",
    "miou": "mIoU %",
    "aacc": "aAcc %",
    "macc": "mAcc %",
}


def merge(
    name: str,
    title: str,
    models: Sequence[Model],
    parts: Sequence[tuple[Report, Mapping[str, str], Callable[[Mapping[str, Any]], Any]]],
) -> Report:
    """Several reports on the same models as one, by model and seed.

    Args:
        name, title: Of the report.
        models: In the order of the table.
        parts: A report, its measures that are kept under new names (keys of `HEADINGS`), and what tells a row's model
            (None: the row is left out).
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for report, names, whose in parts:
        for row in report.rows:
            if (model := whose(row)) is not None:
                key = (model, row["seed"])
                rows.setdefault(key, {"model": model, "seed": row["seed"]})
                rows[key] |= {new: row[old] for old, new in names.items() if row.get(old) is not None}
    place = {model.name: index for index, model in enumerate(models)}
    ordered = [rows[key] for key in sorted(rows, key=lambda key: (place[key[0]], key[1]))]
    measures = {key: said for key, said in HEADINGS.items() if any(key in row for row in ordered)}
    settings: dict[str, Any] = {report.name: dict(report.settings) for report, _, _ in parts}
    skipped = {item["path"]: item for of_part in settings.values() for item in of_part.get("skipped", ())}
    return Report(name, title, measures, ordered, settings | {"skipped": list(skipped.values())})


def _model(row: Mapping[str, Any]) -> Any:
    return row["model"]


def _linear_encoder(row: Mapping[str, Any]) -> Any:
    return row["encoder"] if row["probe"] == "linear" else None
