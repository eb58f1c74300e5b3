"""Tables of fine-tuning, tables 1 to 4 of the paper: one protocol from several weights, side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gtsa_kit.config.finetune import FinetuneConfig, TaskName
from gtsa_kit.config.finetune_presets import load_finetune_config
from gtsa_kit.evaluation.runs import TrainingStoppedError
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.models.packaged_weights import resolve_weights
from gtsa_kit.models.run_folder import MODEL
from gtsa_kit.tasks.api import absolute_data, resolve_finetune
from gtsa_kit.tasks.run import finetune_run
from gtsa_kit.tasks.state import FinetuneCallback

MEASURES: Mapping[TaskName, Mapping[str, str]] = {
    "segment": {"miou": "mIoU %", "aacc": "aAcc %", "macc": "mAcc %"},
    "classify": {"top1": "top-1 %", "top5": "top-5 %"},
    "detect": {"ap": "AP %", "ap50": "AP50 %", "ap75": "AP75 %", "mask_ap": "mask AP %", "mask_ap50": "mask AP50 %"},
}
"""Heading of each column by task; the first is that of the figure."""
FEATURES = "features"
"""Folder of the features of frozen encoders, below that of the table; finished tables have none."""


def name_starts(models: Sequence[Path], random: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of the encoder to start from by the name of its row.

    Args:
        models: Weights; rows are named by the last part of the path, or by all of it where two are equal.
        random: Architectures of random weights.

    Raises:
        ValueError: The same weights are given twice.
    """
    ends = [path.name for path in models]
    names = [end if ends.count(end) == 1 else str(path) for end, path in zip(ends, models, strict=True)]
    starts = {f"random {arch}": {"model.random": arch} for arch in random}
    if len(set(names)) < len(names) or len(starts) < len(random):
        raise ValueError("the same weights are given twice; give each once, and --seeds for repetitions")
    weights = (str(resolve_weights(path).absolute()) for path in models)
    return starts | {name: {"model.weights": path} for name, path in zip(names, weights, strict=True)}


def one_protocol(preset: str | None, settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings with what auto would choose by the weights: whether the encoder is frozen.

    Features of frozen encoders lie in the folder of the table, so that runs of all seeds share them.

    Args:
        preset: Preset of all runs.
        settings: Given settings by dotted key.
        folder: Folder of the table.
    """
    own: dict[str, Any] = {"train.features": str((folder / FEATURES).absolute())}
    if preset in (None, "auto"):
        own["train.freeze"] = not torch.cuda.is_available()
    return {**own, **settings}


def table_runs(
    task: TaskName,
    data: Path,
    starts: Mapping[str, Mapping[str, Any]],
    seeds: int,
    preset: str | None,
    settings: Mapping[str, Any],
    folder: Path,
) -> dict[tuple[str, int], tuple[Path, FinetuneConfig]]:
    """Return run folder and settings of each row and seed; runs that were begun have those that they chose.

    Args:
        task: Task of all runs.
        data: Labeled images.
        starts: Settings of the encoder by the name of the row.
        seeds: Number of seeds, 0, 1, ...
        preset: Preset of all runs.
        settings: Further settings of all runs by dotted key.
        folder: Parent of the run folders.

    Raises:
        ValueError: A setting is unknown or wrong, or a run in the folder has other settings.
    """
    runs = {}
    for number, (name, start) in enumerate(starts.items()):
        for seed in range(seeds):
            run = folder / f"{number:02}-{file_name(name)}-{seed}"
            own = {**settings, **start, "data.source": str(absolute_data(data)), "train.seed": seed}
            config = resolve_finetune(task, run, True, preset, None, own)
            runs[name, seed] = run, config
    return runs


def finetune_all(runs: Mapping[tuple[str, int], tuple[Path, FinetuneConfig]], callback: FinetuneCallback) -> None:
    """Fine-tune each run; finished ones are kept, and one that was interrupted is resumed.

    Raises:
        TrainingStoppedError: A callback stopped a run.
        RunFailedError: A run can't go on.
    """
    for (name, seed), (run, config) in runs.items():
        if (run / "scores.json").exists() and (run / MODEL).exists():
            continue
        callback.on_notice(f"{name}, seed {seed}: {run}")
        if not finetune_run(config, run, (run / "config.yaml").exists(), callback):
            raise TrainingStoppedError(name)


def score_table(task: TaskName, runs: Mapping[tuple[str, int], tuple[Path, FinetuneConfig]]) -> Report:
    """Return the table of the scores of finished runs: a row for each start and seed."""
    rows: list[dict[str, Any]] = []
    protocols, measures = {}, dict(MEASURES[task])
    for (name, seed), (run, _) in runs.items():
        scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
        protocols[name] = {key: scores[key] for key in ("weights", "head", "frozen", "steps", "split")}
        measures = {key: text for key, text in measures.items() if key in scores}  # detectors may have boxes alone
        rows.append({"model": name, "seed": seed, **{key: scores[key] for key in measures}, "run": str(run)})
    heads = sorted({f"{'frozen' if one['frozen'] else 'all layers'}, {one['head']}" for one in protocols.values()})
    title = f"fine-tuning: {task}, {'; '.join(heads)}"
    return Report("table", title, measures, rows, {"task": task, "rows": protocols, "skipped": []})


def file_name(name: str) -> str:
    """Return a name of a folder for a row."""
    return "".join(character if character.isalnum() or character in "-_." else "-" for character in name)[-60:]


def check_settings(task: TaskName, preset: str | None, settings: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a setting that all runs share is unknown, wrong, or one of those that the table sets."""
    own = [key for key in settings if key in ("train.seed", "data.source") or key.startswith("model.")]
    if own:
        raise ValueError(f"--set {own[0]} is set by the table itself; use DATA, MODEL, --random and --seeds")
    load_finetune_config(task, preset, None, settings)
