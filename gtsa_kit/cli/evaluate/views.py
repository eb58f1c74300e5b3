"""gtsa eval sensitivity, correspondence, rotation: what becomes of features when the view changes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.support.evaluate_options import Device, Images, Json, Models, Out, Random, Seeds, Size, show

if TYPE_CHECKING:
    from gtsa_kit.evaluation.support.report import Report

Count = Annotated[int, typer.Option(min=2, help="Images, evenly spread over the folder.")]


def sensitivity(
    images: Images,
    out: Out,
    models: Models = None,
    random: Random = None,
    transform: Annotated[
        list[str] | None, typer.Option(help="color, turn, crop or blur; repeatable. Default: the first three.")
    ] = None,
    views: Annotated[int, typer.Option(min=2, help="Of each image under each of them.")] = 10,
    count: Count = 100,
    seeds: Seeds = 1,
    size: Size = None,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Measure how far the embedding moves when an image is recolored, turned or cropped.

    Variance over the views of an image, as a share of the variance from one image to another: 0% does not
    move, at 100% the view matters as much as the image. All models see the same views. Writes sensitivity.json
    and sensitivity.png, the paper's figure 2.

    [bold]Examples[/bold]

      gtsa eval sensitivity runs/street --random vit_small --images photos/ --out looks/

      gtsa eval sensitivity runs/street encoder-int8.onnx --images photos/ --out looks/ --transform turn --json
    """
    from gtsa_kit.cli.support.evaluate_progress import measured
    from gtsa_kit.evaluation import sensitivity as measure

    settings = measure.Settings(tuple(dict.fromkeys(transform or ("color", "turn", "crop"))), views, size)
    report = measured(
        *(images, count, models, random, device),
        lambda opened, paths, tell: measure.sensitivity(opened, paths, settings, range(seeds), tell),
    )
    bars = {name: name for name in settings.transformations}
    _finish(report, out, as_json, bars, "% of the variance over images", log=True)


def correspondence(
    images: Images,
    out: Out,
    models: Models = None,
    random: Random = None,
    within: Annotated[float, typer.Option(min=0.1, help="Patches off that still count as found.")] = 1.0,
    photometric: Annotated[bool, typer.Option("--photometric", help="Views have training's color noise too.")] = False,
    count: Count = 100,
    seeds: Seeds = 1,
    size: Size = None,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Measure whether the nearest patch in another view is that of the same place.

    Two views of an image, apart by a crop, a quarter turn, or both: of the places that both show, the share whose
    nearest token by cosine lies where it should, beside what guessing would reach. Writes correspondence.json (also
    within 0.5 and 2 patches) and correspondence.png.

    [bold]Examples[/bold]

      gtsa eval correspondence runs/street --random vit_small --images photos/ --out looks/

      gtsa eval correspondence runs/a runs/b --images photos/ --out looks/ --photometric --seeds 3
    """
    from gtsa_kit.cli.support.evaluate_progress import measured
    from gtsa_kit.evaluation import correspondence as measure

    settings = measure.Settings(within, photometric, size=size)
    report = measured(
        *(images, count, models, random, device),
        lambda opened, paths, tell: measure.correspondence(opened, paths, settings, range(seeds), tell),
    )
    _finish(report, out, as_json, measure.CONDITIONS, f"found within {within:g} patch, %")


def rotation(
    images: Images,
    out: Out,
    models: Models = None,
    random: Random = None,
    held_out: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of the images to judge the probe on.")
    ] = 0.3,
    count: Count = 200,
    seeds: Seeds = 3,
    size: Size = None,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Measure how plainly the embedding tells an image's turn, and whether features have collapsed.

    A linear probe names the quarter turn of images that it was not fitted on; chance is 25%. Beside it effective
    ranks and the spread of tokens, which fall when features become alike. Writes rotation.json and rotation.png. Needs
    scikit-learn, which the extra `eval` brings.

    [bold]Examples[/bold]

      gtsa eval rotation runs/street --random vit_small --images photos/ --out looks/

      gtsa eval rotation runs/a runs/b --images photos/ --out looks/ --seeds 5 --json
    """
    from gtsa_kit.cli.support.evaluate_progress import measured
    from gtsa_kit.evaluation import rotation as measure

    settings = measure.Settings(held_out, size=size)
    report = measured(
        *(images, count, models, random, device),
        lambda opened, paths, tell: measure.rotation(opened, paths, settings, range(seeds), tell),
    )
    _finish(report, out, as_json, {"accuracy": "quarter turn"}, "turns right, %; chance is 25")


def _finish(
    report: "Report", out: Path, as_json: bool, bars: Mapping[str, str], ylabel: str, log: bool = False
) -> None:
    from gtsa_kit.cli.support.evaluate_progress import warn
    from gtsa_kit.evaluation.support.bar_charts import grouped_bars

    grouped_bars(report, bars, out / f"{report.name}.png", ylabel, log)
    warn(report)
    show(report, out, as_json)
