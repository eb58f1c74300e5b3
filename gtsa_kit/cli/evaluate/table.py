"""The command `gtsa eval table`."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from gtsa_kit.cli.support.checks import check_evaluation
from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.evaluate_options import FigureFormat, Out, figure_path
from gtsa_kit.cli.support.options import JsonOption
from gtsa_kit.config.finetune import TaskName


def table(
    data: Annotated[
        Path, typer.Argument(help="Labeled images; see gtsa finetune segment, classify and detect.", metavar="DATA")
    ],
    out: Out,
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="Weights to start from, as gtsa finetune --model takes them.", metavar="WEIGHTS"),
    ] = None,
    task: Annotated[TaskName, typer.Option(help="segment, classify or detect.")] = "segment",
    random: Annotated[
        list[str] | None,
        typer.Option(help="Random weights of an architecture, as a row; repeatable. Default: none.", metavar="ARCH"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs from each weights, with seeds 0, 1, ...")] = 2,
    preset: Annotated[
        str | None, typer.Option(help="Preset of all runs: auto, ade20k-fpn, coco-mask-rcnn or inat19. Default auto.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Void class of the masks; repeatable. Default: none.", metavar="CLASS")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Names and colors of classes; see gtsa finetune segment. Default: none.", metavar="FILE"),
    ] = None,
    freeze: Annotated[
        bool | None,
        typer.Option(
            "--freeze/--no-freeze", help="Train the heads alone, or all layers, in every run. Default: heads on a CPU."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting of all runs; repeatable. Default: none.", metavar="KEY=VALUE"),
    ] = None,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
) -> None:
    """Fine-tune from several weights by one protocol, and put the scores side by side: tables 1 to 4 of the paper.

    The runs lie in OUT, one for each weights and seed. Ctrl-C saves; the same command resumes, and finished runs are
    kept. Writes table.json and a figure.

    [bold]Example[/bold]

      gtsa eval table camvid/ runs/mocov3 runs/dino runs/gtsa --random vit_small --ignore 11 --out tables/camvid
    """
    figure = figure_path(out, "table", figure_format)
    check_evaluation(out, models, random)
    from gtsa_kit.config import parse_overrides

    settings: dict[str, Any] = parse_overrides(set_ or [])
    settings |= {"train.freeze": freeze} if freeze is not None else {}
    settings |= {"data.ignore": ignore} if ignore else {}
    settings |= {"data.labels": str(require(labels).absolute())} if labels else {}
    from gtsa_kit.cli.support.evaluate_steps import write_report
    from gtsa_kit.cli.support.finetune_display import finetune_display
    from gtsa_kit.evaluation.runs import TrainingStoppedError
    from gtsa_kit.evaluation.support.plots import bar_chart
    from gtsa_kit.evaluation.task_table import (
        FEATURES,
        check_settings,
        finetune_all,
        name_starts,
        one_protocol,
        score_table,
        table_runs,
    )
    from gtsa_kit.figures import save_figure

    check_settings(task, preset, settings)
    starts = name_starts(models or [], random or [])
    runs = table_runs(task, data, starts, seeds, preset, one_protocol(preset, settings, out), out)
    try:
        with finetune_display() as display:
            finetune_all(runs, display)
    except TrainingStoppedError:
        fail(f"stopped and saved in {out}; run the same command to resume", 130)
    shutil.rmtree(out / FEATURES, ignore_errors=True)
    report = score_table(task, runs)
    key = next(iter(report.measures))
    save_figure(bar_chart(report, {key: report.measures[key].removesuffix(" %")}, report.measures[key]), figure)
    write_report(report, out, as_json)
