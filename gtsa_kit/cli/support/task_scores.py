"""Scores of fine-tuned models and of files that were exported from them, for `gtsa eval segment` and `classify`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from gtsa_kit.cli.support.opening import runner_opener
from gtsa_kit.cli.support.options import ModelOptions
from gtsa_kit.cli.support.progress import make_console, make_result_console, progress_bar
from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.source import is_exported_file
from gtsa_kit.files import write_json
from gtsa_kit.models.task_model import is_task_run
from gtsa_kit.models.task_spec import Task
from gtsa_kit.tasks.score import read_labeled_images, score_all
from gtsa_kit.tasks.scoring import plain_scores
from gtsa_kit.tasks.state import SCORE_NAMES


def is_task_model(path: Path) -> bool:
    """Return whether a path is a fine-tuned model, or a file that was exported from one."""
    if is_task_run(path):
        return True
    return is_exported_file(path) and bool(getattr(open_manifest(path).manifest, "task", None))


def score_models(
    task: Task, models: Sequence[Path], images: Path, out: Path, opening: ModelOptions, as_json: bool
) -> None:
    """Score fine-tuned models on labeled images; write <task>.json and print a table or JSON.

    Raises:
        ValueError: A model is for another task or can't be opened, or the images can't be read.
    """
    console = make_console()
    opener = runner_opener(models, opening.load_options(), console)
    rows = []
    for path in models:
        runner = opener(path)
        if runner.manifest.task != task:
            raise ValueError(f"{path} is for the task {runner.manifest.task or 'of an encoder'}, not for {task}")
        labels, masks = runner.manifest.labels, runner.manifest.label_masks
        with progress_bar() as on_progress:
            labeled = read_labeled_images(images, task, labels, masks, on_progress)
            scores = score_all(runner, labeled, on_progress)
        rows.append({"model": str(path), "images": len(labeled.paths), **plain_scores(scores, labels)})
    report = {"task": task, "data": str(images), "models": rows}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{task}.json", report)
    if as_json:
        print(json.dumps(report))
    else:
        make_result_console().print(_table(rows))
        console.print(f"written: {out / task}.json", soft_wrap=True)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a column for each model: IoU of the classes, then the other scores."""
    table = Table(box=None)
    table.add_column("%", overflow="fold")
    for row in rows:
        table.add_column(row["model"], justify="right", overflow="fold")
    for name in rows[0].get("iou", {}):
        values = [row["iou"].get(name) for row in rows]
        table.add_row(name, *("-" if value is None else f"{value:.1f}" for value in values))
    for key, name in SCORE_NAMES.items():
        if key in rows[0]:
            table.add_row(name, *("-" if row[key] is None else f"{row[key]:.2f}" for row in rows))
    table.add_row("images", *(str(row["images"]) for row in rows))
    return table
