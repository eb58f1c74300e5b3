"""gtsa eval ablation: what each loss brings."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.evaluate_options import Device, Json, Out, Seeds, Size, show

if TYPE_CHECKING:
    from gtsa_kit.config import RunConfig


def ablation(
    folder: Annotated[
        Path, typer.Argument(help="Images to train on: a folder, or a text file of paths.", metavar="FOLDER")
    ],
    out: Out,
    labeled: Annotated[
        Path | None, typer.Option(help="Images with classes: a folder for each, or a CSV.", metavar="DIR")
    ] = None,
    masked: Annotated[
        Path | None,
        typer.Option(help="Images with masks: images/ and masks/, perhaps in train/ and val/.", metavar="DIR"),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Void class of the masks; repeatable.", metavar="CLASS")
    ] = None,
    tiles: Annotated[int | None, typer.Option(min=16, help="Cut images with masks into such squares.")] = None,
    size: Size = None,
    preset: Annotated[str, typer.Option(help="Settings of the three runs: coco, ade20k or quick.")] = "coco",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting of the runs; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    seeds: Seeds = 3,
    random: Annotated[bool, typer.Option(help="Whether random weights stand beside them.")] = True,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Train by the region loss, with patch correspondence, and with the rotation loss too; probe each (Table 5).

    The runs go into OUT and differ in nothing else. Ctrl-C saves; the same command goes on. Runs that are done are
    kept, so that more probes cost only themselves.

    [bold]Example[/bold]

      gtsa eval ablation photos/ --labeled scenes/ --masked camvid/ --ignore 11 --preset quick --out looks/
    """
    from gtsa_kit.cli.support.evaluate_progress import progress_bar, warn
    from gtsa_kit.config import load_config, parse_overrides
    from gtsa_kit.data.label_map import read_options
    from gtsa_kit.data.labeled import read_labeled
    from gtsa_kit.data.labeled_masks import read_masked
    from gtsa_kit.evaluation.ablation import FOLDERS, ablation_runs, probe_table
    from gtsa_kit.evaluation.dense_tokens import Framing
    from gtsa_kit.evaluation.image_probes import ProbeOptions
    from gtsa_kit.evaluation.models import Model, open_models, random_runner
    from gtsa_kit.evaluation.segment import SegmentOptions
    from gtsa_kit.evaluation.support.bar_charts import bar_chart

    if labeled is None and masked is None:
        raise ValueError("nothing to probe on; name images with classes (--labeled) or with masks (--masked)")
    data = {"data": str(require(folder).absolute())}
    config = load_config(preset, None, parse_overrides(set_ or []) | data)
    with progress_bar() as tell:
        classes = read_labeled(require(labeled)) if labeled else None
        masks = read_masked(require(masked), None, read_options(None, ignore or []), tell) if masked else None
    runs = train_here(ablation_runs(config), out)
    rows = {folder: row for row, folder in FOLDERS.items()}
    opened = open_models(list(runs.values()), device=device)
    models = [Model(rows[name], model.runner, model.source) for name, model in zip(runs, opened, strict=True)]
    if random:
        models.append(Model("random", random_runner(config.model.arch, config.train.seed, device), None))
    options = ProbeOptions(seeds, size=size), SegmentOptions(Framing(size, tiles), ("linear",), seeds)
    with progress_bar() as tell:
        report = probe_table(models, classes, masks, options, tell)
    warn(report)
    bar_chart(report, next(iter(report.measures)), out / "ablation.png")
    show(report, out, as_json)


def train_here(runs: "Mapping[str, RunConfig]", out: Path) -> dict[str, Path]:
    """Train what is not trained yet, with a display; Ctrl-C saves and ends with exit code 130."""
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.cli.support.training_display import training_display
    from gtsa_kit.evaluation.runs import StoppedError, train_all

    try:
        with training_display(make_console()) as display:
            return train_all(runs, out, lambda _: display)
    except StoppedError:
        fail(f"stopped, and saved in {out}; the same command goes on", 130)
