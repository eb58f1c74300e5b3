"""The commands `gtsa eval knn` and `gtsa eval linear`: classification of frozen embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.support.checks import check_labeled_evaluation
from gtsa_kit.cli.support.evaluate_options import (
    BaselineOptions,
    FigureFormat,
    MaxMissingInCSV,
    Models,
    Out,
    Seeds,
    Size,
    figure_path,
)
from gtsa_kit.cli.support.options import JsonOption, ModelOptions, with_option_groups

if TYPE_CHECKING:
    from gtsa_kit.data.labeled import ClassificationDataset
    from gtsa_kit.evaluation.models import Model
    from gtsa_kit.evaluation.support.report import Report

LabeledImages = Annotated[
    Path,
    typer.Option(
        help="Images with classes: a folder with a subfolder for each class (optionally below train/ and val/), or "
        "a CSV with columns path, label and optionally split (train or val).",
        metavar="FOLDER|CSV",
    ),
]
ValShare = Annotated[
    float, typer.Option(min=0.01, max=0.99, help="Fraction of each class for validation, if there is no split.")
]


@with_option_groups
def knn(
    images: LabeledImages,
    out: Out,
    models: Models = None,
    k: Annotated[list[int] | None, typer.Option(min=1, help="Number of neighbors; repeatable. Default 20.")] = None,
    temperature: Annotated[float, typer.Option(help="Temperature of the weights exp(cosine / temperature).")] = 0.07,
    seeds: Seeds = 5,
    val_share: ValShare = 0.2,
    max_missing: MaxMissingInCSV = 0.2,
    size: Size = None,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    *,
    beside: BaselineOptions,
    opening: ModelOptions,
) -> None:
    """Classify images by the nearest neighbors of their embeddings, without training.

    Votes are weighted by cosine as in DINO. Writes knn.json and knn.png. Exported files are models too, so fp16 and
    int8 exports can be compared with the original.

    [bold]Examples[/bold]

      gtsa eval knn runs/street --images scenes/ --out eval/ --random vit_small

      gtsa eval knn runs/street encoder-int8.onnx --images labels.csv --out eval/ --k 10 --k 20 --json
    """
    figure = figure_path(out, "knn", figure_format)
    check_labeled_evaluation(images, out, models, beside.random)
    from gtsa_kit.cli.support.evaluate_steps import open_for_evaluation
    from gtsa_kit.cli.support.progress import progress_bar
    from gtsa_kit.evaluation import image_probes

    options = image_probes.ProbeOptions(seeds, val_share, size)
    opened = open_for_evaluation(models, beside, opening, channels=True)
    data = _read(images, max_missing, opened)
    with progress_bar() as on_progress:
        report = image_probes.knn(opened, data, options, tuple(dict.fromkeys(k or [20])), temperature, on_progress)
    _write(report, figure, as_json)


@with_option_groups
def linear(
    images: LabeledImages,
    out: Out,
    models: Models = None,
    seeds: Seeds = 5,
    val_share: ValShare = 0.2,
    max_missing: MaxMissingInCSV = 0.2,
    size: Size = None,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    *,
    beside: BaselineOptions,
    opening: ModelOptions,
) -> None:
    """Classify images by a linear classifier on frozen embeddings.

    The classifier is logistic regression; its regularization is chosen on a part of the training images. Writes
    linear.json and linear.png.

    [bold]Examples[/bold]

      gtsa eval linear runs/street --images scenes/ --out eval/ --random vit_small

      gtsa eval linear runs/a runs/b --images labels.csv --out eval/ --seeds 3 --size 96
    """
    figure = figure_path(out, "linear", figure_format)
    check_labeled_evaluation(images, out, models, beside.random, "sklearn")
    from gtsa_kit.cli.support.evaluate_steps import open_for_evaluation
    from gtsa_kit.cli.support.progress import progress_bar
    from gtsa_kit.evaluation import image_probes

    options = image_probes.ProbeOptions(seeds, val_share, size)
    opened = open_for_evaluation(models, beside, opening, channels=True)
    data = _read(images, max_missing, opened)
    with progress_bar() as on_progress:
        report = image_probes.linear(opened, data, options, on_progress=on_progress)
    _write(report, figure, as_json)


def _read(images: Path, max_missing: float, opened: Sequence["Model"]) -> "ClassificationDataset":
    """Read the labeled images with the channels of the models."""
    from gtsa_kit.data.labeled import read_classification_dataset
    from gtsa_kit.models.channel_images import reader_of

    return read_classification_dataset(images, max_missing, reader_of(opened[0].runner.preprocessing))


def _write(report: "Report", figure: Path, as_json: bool) -> None:
    from gtsa_kit.cli.support.evaluate_steps import write_report
    from gtsa_kit.evaluation.support.plots import bar_chart
    from gtsa_kit.figures import save_figure

    save_figure(bar_chart(report, {"top1": "top-1"}, "accuracy, %"), figure)
    write_report(report, figure.parent, as_json)
