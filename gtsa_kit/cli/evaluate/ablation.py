"""The command `gtsa eval ablation`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.support.checks import check_evaluation
from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.evaluate_options import FigureFormat, Out, Seeds, Size, figure_path
from gtsa_kit.cli.support.options import DeviceOption, JsonOption

if TYPE_CHECKING:
    from gtsa_kit.config import RunConfig
    from gtsa_kit.evaluation.models import Model


def ablation(
    folder: Annotated[
        Path, typer.Argument(help="Images to train on: a folder, or a text file of paths.", metavar="FOLDER")
    ],
    out: Out,
    labeled: Annotated[
        Path | None,
        typer.Option(help="Images with classes: a folder for each, or a CSV. Default: none.", metavar="DIR"),
    ] = None,
    masked: Annotated[
        Path | None,
        typer.Option(
            help="Images with masks: images/ and masks/, optionally in train/ and val/. Default: none.", metavar="DIR"
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Void class of the masks; repeatable. Default: none.", metavar="CLASS")
    ] = None,
    tiles: Annotated[
        int | None,
        typer.Option(
            min=16, help="Cut images with masks into square tiles of this side, in pixels. Default: whole images."
        ),
    ] = None,
    size: Size = None,
    preset: Annotated[str, typer.Option(help="Settings of the three runs: coco, ade20k or quick.")] = "coco",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting of the runs; repeatable. Default: none.", metavar="KEY=VALUE"),
    ] = None,
    seeds: Seeds = 3,
    random: Annotated[bool, typer.Option(help="Add a model with random weights.")] = True,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Train with one, two and all three losses of GTSA, and probe each run: table 5 of the paper.

    The first run has the region loss, the second adds patch correspondence, the third adds the rotation loss.

    They are written to OUT and differ only in the loss weights. Ctrl-C saves; the same command resumes. Finished
    runs are kept, so further probes need no training. PyTorch runs the encoders, so there is no --provider.

    [bold]Example[/bold]

      gtsa eval ablation photos/ --labeled scenes/ --masked camvid/ --ignore 11 --preset quick --out eval/
    """
    if labeled is None and masked is None:
        raise ValueError("no data to probe on; name images with classes (--labeled) or with masks (--masked)")
    figure = figure_path(out, "ablation", figure_format)
    check_evaluation(out, None, ["the runs"], "sklearn" if labeled else "torchmetrics")
    from gtsa_kit.cli.support.progress import progress_bar
    from gtsa_kit.config import load_config, parse_overrides
    from gtsa_kit.data.image_files import check_source
    from gtsa_kit.data.label_file import read_mask_options
    from gtsa_kit.data.labeled import read_classification_dataset
    from gtsa_kit.data.labeled_masks import read_segmentation_dataset

    data = {"data": str(require(folder).absolute())}
    config = load_config(preset, None, parse_overrides(set_ or []) | data)
    check_source(config.data)
    mask_options = read_mask_options(None, ignore or [])
    with progress_bar() as on_progress:
        classification = read_classification_dataset(require(labeled)) if labeled else None
        segmentation = read_segmentation_dataset(require(masked), None, mask_options, on_progress) if masked else None
    from gtsa_kit.cli.support.evaluate_steps import write_report
    from gtsa_kit.evaluation.ablation import ablation_runs, probe_table
    from gtsa_kit.evaluation.dense_tokens import InputOptions
    from gtsa_kit.evaluation.image_probes import ProbeOptions
    from gtsa_kit.evaluation.segment import SegmentOptions
    from gtsa_kit.evaluation.support.plots import bar_chart
    from gtsa_kit.figures import save_figure

    models = open_runs(train_runs(ablation_runs(config), out), config if random else None, device)
    options = ProbeOptions(seeds, size=size), SegmentOptions(InputOptions(size, tiles), ("linear",), seeds)
    with progress_bar() as on_progress:
        report = probe_table(models, classification, segmentation, options, on_progress)
    key = next(iter(report.measures))
    save_figure(bar_chart(report, {key: report.measures[key].removesuffix(" %")}, report.measures[key]), figure)
    write_report(report, out, as_json)


def train_runs(configs: "Mapping[str, RunConfig]", out: Path) -> dict[str, Path]:
    """Train the unfinished runs, with a display; Ctrl-C saves and exits with code 130."""
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.cli.support.training_display import training_display
    from gtsa_kit.evaluation.runs import TrainingStoppedError, train_all

    try:
        with training_display(make_console()) as display:
            return train_all(configs, out, lambda _: display)
    except TrainingStoppedError:
        fail(f"stopped and saved in {out}; run the same command to resume", 130)


def open_runs(runs: Mapping[str, Path], random: "RunConfig | None", device: str) -> "list[Model]":
    """Open the runs, named as the rows of the table, and add random weights with `random`'s seed."""
    from gtsa_kit.evaluation.ablation import FOLDERS
    from gtsa_kit.evaluation.models import Model, known_architecture, open_models, random_runner

    rows = {folder: row for row, folder in FOLDERS.items()}
    opened = open_models(list(runs.values()), device=device)
    models = [Model(rows[name], model.runner, model.source) for name, model in zip(runs, opened, strict=True)]
    if random:
        runner = models[0].runner
        architecture = known_architecture(runner.manifest.architecture)
        assert architecture is not None, "the runs are those of this command"
        weights = random_runner(architecture, random.train.seed, device, preprocessing=runner.preprocessing)
        models.append(Model("random", weights, None))
    return models
