"""Scores of fine-tuned models and of files that were exported from them, for `gtsa eval`."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from gtsa_kit.cli.support.opening import runner_opener
from gtsa_kit.cli.support.options import ModelOptions
from gtsa_kit.cli.support.progress import make_console, make_result_console, progress_bar
from gtsa_kit.export import Runner
from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.source_facts import is_exported_file
from gtsa_kit.files import write_json
from gtsa_kit.models.channel_images import reader_of
from gtsa_kit.models.run_folder import is_task_run
from gtsa_kit.models.task_spec import Task
from gtsa_kit.tasks.detect_scoring import DetectScorer
from gtsa_kit.tasks.score import add_images, read_labeled_images
from gtsa_kit.tasks.scoring import Scorer, plain_scores
from gtsa_kit.tasks.state import SCORE_NAMES


def is_task_model(path: Path) -> bool:
    """Return whether a path is a fine-tuned model, or a file that was exported from one."""
    if is_task_run(path):
        return True
    return is_exported_file(path) and bool(getattr(open_manifest(path).manifest, "task", None))


class Scored(NamedTuple):
    """A model whose outputs for all images are in a scorer."""

    scorer: Scorer
    classes: list[str]
    """Classes by class number."""


def score_models(
    task: Task,
    models: Sequence[Path],
    images: Path,
    out: Path,
    opening: ModelOptions,
    as_json: bool,
    annotations: Path | None = None,
) -> dict[str, Scored]:
    """Score fine-tuned models on labeled images; write <task>.json and print a table or JSON.

    Args:
        task: Task of the models.
        models: Runs and files.
        images: Labeled images.
        out: Folder of the report.
        opening: How to open the models.
        as_json: Whether to print the report as JSON.
        annotations: JSON file of COCO, for images with objects.

    Returns:
        What was scored of each model, by its path.

    Raises:
        ValueError: A model is for another task or can't be opened, or the images can't be read.
    """
    console = make_console()
    opener = runner_opener(models, opening.load_options(), console)
    rows: list[dict[str, Any]] = []
    scored: dict[str, Scored] = {}
    for path in models:
        runner = opener(path)
        if runner.manifest.task != task:
            raise ValueError(f"{path} is for the task {runner.manifest.task or 'of an encoder'}, not for {task}")
        labels = runner.manifest.labels
        scored[str(path)], count = _score(runner, images, annotations)
        scores = plain_scores(scored[str(path)].scorer.scores(), labels)
        rows.append({"model": str(path), "images": count, **scores})
    report = {"task": task, "data": str(images), "models": rows}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{task}.json", report)
    if as_json:
        print(json.dumps(report))
    else:
        make_result_console().print(_table(rows))
        console.print(f"written: {out / task}.json", soft_wrap=True)
    return scored


def _score(runner: Runner, images: Path, annotations: Path | None) -> tuple[Scored, int]:
    """Return what was scored of an opened model, and the number of images."""
    manifest = runner.manifest
    gives_masks = any(output.name == "masks" for output in manifest.outputs)
    with progress_bar() as on_progress:
        facts = str(manifest.task), manifest.labels, manifest.label_masks
        labeled = read_labeled_images(
            images, *facts, on_progress, gives_masks, annotations, reader_of(runner.preprocessing)
        )
        scorer = add_images(runner, labeled, on_progress)
    return Scored(scorer, [label.name for label in manifest.labels]), len(labeled.paths)


def draw_scores(scored: Mapping[str, Scored], figure: Path) -> None:
    """Draw AP of each class and precision by recall of detectors: of masks if all have them, else of boxes.

    Classes are those of the first model; others have a bar for each that they share.
    """
    from gtsa_kit.evaluation.detect_plot import draw_detections
    from gtsa_kit.figures import save_figure

    scorers = {name: item.scorer for name, item in scored.items() if isinstance(item.scorer, DetectScorer)}
    masks = all(scorer.masks for scorer in scorers.values())
    collected = {name: scorer.collected() for name, scorer in scorers.items()}
    key = "mask_ap_by_class" if masks else "ap_by_class"
    classes = next(iter(scored.values())).classes
    ap = {}
    for name, item in collected.items():
        by_name = dict(zip(scored[name].classes, item.scores()[key], strict=True))
        ap[name] = [by_name.get(class_name, math.nan) for class_name in classes]
    curves = {name: item.curves(masks) for name, item in collected.items()}
    save_figure(draw_detections(ap, curves, classes, "masks" if masks else "boxes"), figure)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a column for each model: IoU or AP of the classes, then the other scores."""
    table = Table(box=None)
    table.add_column("%", overflow="fold")
    for row in rows:
        table.add_column(row["model"], justify="right", overflow="fold")
    by_class = next((key for key in ("iou", "mask_ap_by_class", "ap_by_class") if all(key in row for row in rows)), "")
    for name in rows[0].get(by_class, {}):
        values = [row[by_class].get(name) for row in rows]
        table.add_row(name, *("-" if value is None else f"{value:.1f}" for value in values))
    for key, name in SCORE_NAMES.items():
        if any(key in row for row in rows):
            table.add_row(name, *("-" if row.get(key) is None else f"{row[key]:.2f}" for row in rows))
    table.add_row("images", *(str(row["images"]) for row in rows))
    return table
