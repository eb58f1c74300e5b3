"""gtsa eval segment: what frozen patch tokens know of the pixels."""

from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.evaluate_options import Device, Json, Models, Out, Random, Seeds, show


def segment(
    images: Annotated[
        Path,
        typer.Option(
            help="Images; or, without --masks, a folder with images/ and masks/, perhaps in train/ and val/ each.",
            metavar="DIR",
        ),
    ],
    out: Out,
    models: Models = None,
    masks: Annotated[
        Path | None, typer.Option(help="Masks of the same names, in index or in color (PNG).", metavar="DIR")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Void: an index, a color (#000000) or a name; repeatable. Index 255 is.", metavar="CLASS"),
    ] = None,
    colors: Annotated[
        Path | None,
        typer.Option(
            help='Names of classes: JSON {"#804080": "road"} or {"3": "road"}, or a CSV name,r,g,b. Other pixels are '
            "void. Default: each color or index that is found is a class.",
            metavar="FILE",
        ),
    ] = None,
    tiles: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Cut images into squares of this side: a model that learnt on small crops sees "
            "details as it knows them.",
            metavar="PIXELS",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=16, help="Longer side of the input, in pixels. Default: the tile's, or what the model was made for."
        ),
    ] = None,
    probe: Annotated[str, typer.Option(help="linear, knn or both.")] = "both",
    k: Annotated[int, typer.Option(min=1, help="Neighbors of the k-NN probe.")] = 30,
    epochs: Annotated[int, typer.Option(min=1, help="Of the linear probe.")] = 20,
    random: Random = None,
    seeds: Seeds = 3,
    val_share: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Of the images for validation, where no split is given.")
    ] = 0.2,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Segment images by probes of frozen patch tokens: a linear layer, and the nearest labeled patches.

    Measured at the masks' full resolution. Writes segment.json, with the IoU of each class, and segment.png. Frames of
    one video are alike: keep them on one side, with train/ and val/.

    [bold]Examples[/bold]

      gtsa eval segment runs/street --images camvid/ --ignore 11 --out looks/ --random vit_small --size 480

      gtsa eval segment runs/street encoder-fp16.onnx --images photos/ --masks masks/ --out looks/ --tiles 96
    """
    from gtsa_kit.cli.support.evaluate_progress import progress_bar, warn
    from gtsa_kit.data.label_map import read_options
    from gtsa_kit.data.labeled_masks import read_masked
    from gtsa_kit.evaluation.dense_probes import LinearRecipe, NeighborRecipe
    from gtsa_kit.evaluation.dense_tokens import Framing
    from gtsa_kit.evaluation.models import open_models
    from gtsa_kit.evaluation.segment import PROBES, SegmentOptions
    from gtsa_kit.evaluation.segment import segment as measure
    from gtsa_kit.evaluation.support.bar_charts import bar_chart

    options = SegmentOptions(
        Framing(size, tiles),
        PROBES if probe == "both" else (probe,),
        seeds,
        val_share,
        LinearRecipe(epochs=epochs),
        NeighborRecipe(k=k),
    )
    means = read_options(colors, ignore or [])
    require(images)
    opened = open_models(models or [], random or [], device=device)
    with progress_bar() as tell:
        data = read_masked(images, masks, means, tell)
        report = measure(opened, data, options, tell)
    bar_chart(report, "miou", out / "segment.png")
    warn(report)
    show(report, out, as_json)
