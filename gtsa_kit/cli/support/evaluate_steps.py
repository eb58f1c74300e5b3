"""Steps that the evaluation commands share: opening of models, evaluation of images, and output of the report."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.evaluate_options import BaselineOptions
from gtsa_kit.cli.support.opening import encoder_opener, runner_opener
from gtsa_kit.cli.support.options import ModelOptions, WeightsOptions
from gtsa_kit.cli.support.progress import make_console, progress_bar
from gtsa_kit.evaluation.eval_images import evenly_spaced
from gtsa_kit.evaluation.models import Model, open_encoders, open_models
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.export.runtime.load import pick_device
from gtsa_kit.export.source import open_source
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.progress import ProgressCallback


def evaluate_images(
    images: Sequence[Path],
    count: int,
    models: list[Path] | None,
    beside: BaselineOptions,
    opening: ModelOptions,
    evaluate: Callable[[Sequence[Model], Sequence[Path], ProgressCallback], Report],
) -> Report:
    """Open the models, and evaluate them on `count` evenly spaced images with a progress bar."""
    paths = evenly_spaced(images, count)
    opened = open_for_evaluation(models, beside, opening, channels=True)
    with progress_bar() as on_progress:
        return evaluate(opened, paths, on_progress)


def open_for_evaluation(
    models: list[Path] | None, beside: BaselineOptions, opening: ModelOptions, channels: bool = False
) -> list[Model]:
    """Open the models of a command, and print what was assumed for weights of other tools.

    With `channels` they may be of other channels than 8-bit RGB. A note says that random weights are missing because no
    architecture is known.

    Raises:
        ValueError: No model is given, one can't be opened, or an option is given that none of them takes.
    """
    paths, options = [require(path) for path in models or []], opening.load_options()
    opener = runner_opener(paths, options, make_console()) if paths else None
    add_baseline = beside.baseline == "random"
    random, device = beside.random or [], options.device
    opened = open_models(paths, random, device=device, opener=opener, baseline=add_baseline, channels=channels)
    if add_baseline and all(model.source for model in opened):
        make_console().print(
            "no random weights beside the models: their architecture is not known; --random vit_small adds some",
            soft_wrap=True,
        )
    return opened


def open_encoders_for_evaluation(
    models: list[Path] | None, beside: BaselineOptions, weights: WeightsOptions, device: str
) -> list[tuple[str, Encoder]]:
    """Open the encoders of a command on a device, as `open_for_evaluation` opens runners."""
    target, paths, options = pick_device(device), [require(path) for path in models or []], weights.import_options
    opener = encoder_opener(paths, options, make_console()) if paths else open_source
    encoders = open_encoders(paths, beside.random or [], opener=opener, baseline=beside.baseline == "random")
    return [(name, encoder.to(target)) for name, encoder in encoders]


def write_report(report: Report, out: Path, as_json: bool) -> None:
    """Write a report as JSON into a folder, and print it.

    Warnings and the table go to standard error; with `as_json`, the JSON goes to standard output instead of the table.
    """
    _warn_about_inputs(report)
    path = report.write(out)
    if as_json:
        json.dump(report.to_dict(), sys.stdout, indent=2, ensure_ascii=False)
        print()
        return
    table = Table(title=report.title, title_justify="left")
    table.add_column("model", overflow="fold")
    for heading in report.measures.values():
        table.add_column(heading, justify="right")
    for line in report.summary():
        table.add_row(line["model"], *(_format_value(line[key], line[f"{key}_std"]) for key in report.measures))
    make_console().print(table)
    make_console().print(f"wrote {path}")


def _warn_about_inputs(report: Report) -> None:
    """Print the number of skipped files, the notes, and the input sizes of the models where they differ."""
    skipped = report.settings["skipped"]
    if skipped:
        first = skipped[0]
        make_console().print(
            f"{len(skipped)} files skipped, first {first['path']}: {first['reason']}; the report lists them",
            markup=False,
            soft_wrap=True,
        )
    for note in report.notes:
        make_console().print(note, markup=False, soft_wrap=True)
    model_by_input = {str(row.get("input") or row.get("inputs")): row["model"] for row in report.rows}
    if len(model_by_input) > 1:
        sizes = ", ".join(f"{model} {size}" for size, model in model_by_input.items())
        make_console().print(
            f"the models have different input sizes (height, width): {sizes}", markup=False, soft_wrap=True
        )


def _format_value(value: float | None, deviation: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"
    return text if deviation is None else f"{text} ± {deviation:.2g}"
