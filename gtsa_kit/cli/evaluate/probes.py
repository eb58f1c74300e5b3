"""gtsa eval knn, linear: classification of frozen embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.evaluate_options import Device, Json, Models, Out, Random, Seeds, Size, show

if TYPE_CHECKING:
    from gtsa_kit.evaluation.support.report import Report

ClassificationDataset = Annotated[
    Path,
    typer.Option(
        help="Images with classes: a folder with a sub-folder for each class (perhaps below train/ and val/), or "
        "a CSV with columns path, label and perhaps split (train or val).",
        metavar="FOLDER|CSV",
    ),
]
DistributedBatchSampler = Annotated[
    float, typer.Option(min=0.01, max=0.99, help="Of each class for validation, where no split is given.")
]


def knn(
    images: ClassificationDataset,
    out: Out,
    models: Models = None,
    random: Random = None,
    k: Annotated[list[int] | None, typer.Option(min=1, help="Neighbors, repeatable. Default 20.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the weights exp(cosine / temperature).")] = 0.07,
    seeds: Seeds = 5,
    val_share: DistributedBatchSampler = 0.2,
    size: Size = None,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Classify images by their nearest neighbors: no training, so it shows the features alone.

    Weighted cosine as in DINO. Writes knn.json and knn.png. Exported files are models too, so that what fp16 or int8
    cost is seen beside the original.

    [bold]Examples[/bold]

      gtsa eval knn runs/street --images places/ --out looks/ --random vit_small

      gtsa eval knn runs/street encoder-int8.onnx --images labels.csv --out looks/ --k 10 --k 20 --json
    """
    from gtsa_kit.cli.support.evaluate_progress import progress_bar
    from gtsa_kit.data.labeled import read_labeled
    from gtsa_kit.evaluation import image_probes
    from gtsa_kit.evaluation.models import open_models

    options = image_probes.ProbeOptions(seeds, val_share, size)
    data = read_labeled(require(images))
    opened = open_models(models or [], random or [], device=device)
    with progress_bar() as tell:
        report = image_probes.knn(opened, data, options, tuple(dict.fromkeys(k or [20])), temperature, tell)
    _finish(report, out, as_json)


def linear(
    images: ClassificationDataset,
    out: Out,
    models: Models = None,
    random: Random = None,
    seeds: Seeds = 5,
    val_share: DistributedBatchSampler = 0.2,
    size: Size = None,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Classify images by a linear classifier on frozen embeddings.

    Logistic regression; its regularisation is chosen on a part of the training images. Writes linear.json and
    linear.png.

    [bold]Examples[/bold]

      gtsa eval linear runs/street --images places/ --out looks/ --random vit_small

      gtsa eval linear runs/a runs/b --images labels.csv --out looks/ --seeds 3 --size 96
    """
    from gtsa_kit.cli.support.evaluate_progress import progress_bar
    from gtsa_kit.data.labeled import read_labeled
    from gtsa_kit.evaluation import image_probes
    from gtsa_kit.evaluation.models import open_models

    options = image_probes.ProbeOptions(seeds, val_share, size)
    data = read_labeled(require(images))
    opened = open_models(models or [], random or [], device=device)
    with progress_bar() as tell:
        report = image_probes.linear(opened, data, options, tell=tell)
    _finish(report, out, as_json)


def _finish(report: "Report", out: Path, as_json: bool) -> None:
    from gtsa_kit.cli.support.evaluate_progress import warn
    from gtsa_kit.evaluation.support.bar_charts import bar_chart

    bar_chart(report, "top1", out / f"{report.name}.png")
    warn(report)
    show(report, out, as_json)
