"""Ablation of the losses, table 5 of the paper: three runs that differ only in the loss weights, with equal probes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gtsa_kit.config import RunConfig
from gtsa_kit.data.labeled import ClassificationDataset
from gtsa_kit.data.labeled_masks import SegmentationDataset
from gtsa_kit.evaluation.embeddings import cached_embedder
from gtsa_kit.evaluation.image_probes import ProbeOptions, knn, linear
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.segment import SegmentOptions, segment
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.progress import ProgressCallback

FOLDERS = {"l": "region", "l + l_pc": "region-correspondence", "l + l_pc + l_rp": "whole"}
"""Folder of each run, by row of the table."""
_LOSS_WEIGHTS: Mapping[str, dict[str, Any]] = {
    "l": {"correspondence_weight": 0.0, "rotation_weight": 0.0},
    "l + l_pc": {"rotation_weight": 0.0},
    "l + l_pc + l_rp": {},
}
MEASURES = {
    "knn": "k-NN top-1 %",
    "linear": "linear top-1 %",
    "linear5": "linear top-5 %",
    "miou": "mIoU %",
    "aacc": "aAcc %",
    "macc": "mAcc %",
}
"""Heading of each column, by key."""

ModelOfRow = Callable[[Mapping[str, Any]], Any]
"""Function from a report row to the name of its model, or to None if the row is not used."""


def ablation_runs(config: RunConfig) -> dict[str, RunConfig]:
    """Return the settings of the three runs, by folder name.

    Args:
        config: Settings of the run with all losses; its weights of patch correspondence (alpha) and rotation (beta)
            are those of the last row.

    Raises:
        ValueError: The method is not GTSA, or one of these weights is 0, so that two rows would be equal.
    """
    if config.method != "gtsa":
        raise ValueError(f"the ablation needs the losses of gtsa, not of {config.method}; remove the method setting")
    for name in ("correspondence_weight", "rotation_weight"):
        if getattr(config.loss, name) == 0:
            raise ValueError(f"loss.{name} is 0, so two rows would be equal; leave it at its default")
    return {
        FOLDERS[row]: config.model_copy(update={"loss": config.loss.model_copy(update=weights)})
        for row, weights in _LOSS_WEIGHTS.items()
    }


def probe_table(
    models: Sequence[Model],
    classification: ClassificationDataset | None,
    segmentation: SegmentationDataset | None,
    options: tuple[ProbeOptions, SegmentOptions],
    on_progress: ProgressCallback,
) -> Report:
    """Probe models and return one table with a row for each model and seed.

    Args:
        models: Models to compare.
        classification: Images with classes, for the k-NN and linear probes; None skips these probes.
        segmentation: Images with masks, for the linear probe of patch tokens; None skips it.
        options: Options of the classification and of the segmentation probes.
        on_progress: Progress callback.

    Raises:
        ValueError: Both datasets are None.
    """
    probe_options, segment_options = options
    parts: list[tuple[Report, dict[str, str], ModelOfRow]] = []
    if classification is not None:
        embed = cached_embedder()
        knn_report = knn(models, classification, probe_options, on_progress=on_progress, embed=embed)
        linear_report = linear(models, classification, probe_options, on_progress=on_progress, embed=embed)
        parts.append((knn_report, {"top1": "knn"}, _model))
        parts.append((linear_report, {"top1": "linear", "top5": "linear5"}, _model))
    if segmentation is not None:
        segment_report = segment(models, segmentation, segment_options, on_progress)
        parts.append((segment_report, {"miou": "miou", "aacc": "aacc", "macc": "macc"}, _linear_probe_encoder))
    if not parts:
        raise ValueError("no data to probe on; name images with classes (--labeled) or with masks (--masked)")
    return merge_reports("ablation", "ablation of the losses", models, parts)


def merge_reports(
    name: str,
    title: str,
    models: Sequence[Model],
    parts: Sequence[tuple[Report, Mapping[str, str], ModelOfRow]],
) -> Report:
    """Merge reports of the same models into one report with a row for each model and seed.

    Args:
        name, title: Name and title of the merged report.
        models: Models in the order of the table.
        parts: Triples of a report, its columns to keep with their new names (keys of `MEASURES`), and the function
            that returns the model of a row.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for report, columns, model_of_row in parts:
        for row in report.rows:
            if (model := model_of_row(row)) is not None:
                key = (model, row["seed"])
                rows.setdefault(key, {"model": model, "seed": row["seed"]})
                rows[key] |= {new: row[old] for old, new in columns.items() if row.get(old) is not None}
    model_order = {model.name: index for index, model in enumerate(models)}
    ordered = [rows[key] for key in sorted(rows, key=lambda key: (model_order[key[0]], key[1]))]
    measures = {key: heading for key, heading in MEASURES.items() if any(key in row for row in ordered)}
    chance = {
        new: report.chance[old] for report, columns, _ in parts for old, new in columns.items() if old in report.chance
    }
    settings: dict[str, Any] = {report.name: dict(report.settings) for report, _, _ in parts}
    skipped = {
        item["path"]: item for report_settings in settings.values() for item in report_settings.get("skipped", ())
    }
    return Report(name, title, measures, ordered, settings | {"skipped": list(skipped.values())}, chance)


def _model(row: Mapping[str, Any]) -> Any:
    return row["model"]


def _linear_probe_encoder(row: Mapping[str, Any]) -> Any:
    return row["encoder"] if row["probe"] == "linear" else None
