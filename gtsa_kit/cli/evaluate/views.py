"""The commands `gtsa eval sensitivity`, `correspondence` and `rotation`: features of transformed views."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.support.checks import find_evaluation_images
from gtsa_kit.cli.support.evaluate_options import (
    BaselineOptions,
    FigureFormat,
    Images,
    Models,
    Out,
    Seeds,
    Size,
    figure_path,
)
from gtsa_kit.cli.support.options import JsonOption, ModelOptions, with_option_groups

if TYPE_CHECKING:
    from gtsa_kit.evaluation.support.report import Report

Count = Annotated[int, typer.Option(min=2, help="Number of images, evenly spaced over the folder.")]


@with_option_groups
def sensitivity(
    images: Images,
    out: Out,
    models: Models = None,
    transform: Annotated[
        list[str] | None, typer.Option(help="color, rotation, crop or blur; repeatable. Default: the first three.")
    ] = None,
    views: Annotated[int, typer.Option(min=2, help="Views of each image under each transformation.")] = 10,
    count: Count = 100,
    seeds: Seeds = 1,
    size: Size = None,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    *,
    beside: BaselineOptions,
    opening: ModelOptions,
) -> None:
    """Measure the variance of the embedding under color changes, rotations and crops: figure 2 of the paper.

    The variance over the views of an image is a percentage of the variance over images: 0% means invariant, 100% means
    that two views differ as much as two images. All models get the same views. Writes sensitivity.json and
    sensitivity.png.

    [bold]Examples[/bold]

      gtsa eval sensitivity runs/street --random vit_small --images photos/ --out eval/

      gtsa eval sensitivity runs/street encoder-int8.onnx --images photos/ --out eval/ --transform rotation --json
    """
    figure = figure_path(out, "sensitivity", figure_format)
    paths = find_evaluation_images(images, out, models, beside.random, channels=True)
    from gtsa_kit.cli.support.evaluate_steps import evaluate_images
    from gtsa_kit.evaluation import sensitivity as evaluation

    names = tuple(dict.fromkeys(transform or ("color", "rotation", "crop")))
    options = evaluation.SensitivityOptions(names, views, size)
    report = evaluate_images(
        *(paths, count, models, beside, opening),
        lambda opened, paths, on_progress: evaluation.sensitivity(opened, paths, options, range(seeds), on_progress),
    )
    reference = (100.0, "two images")
    _write(report, figure, as_json, {name: name for name in names}, "% of the variance over images", reference)


@with_option_groups
def correspondence(
    images: Images,
    out: Out,
    models: Models = None,
    radius: Annotated[float, typer.Option(min=0.1, help="Largest distance of a correct match, in patches.")] = 1.0,
    color_augmentation: Annotated[
        bool, typer.Option("--color-augmentation", help="Apply the color augmentation of training to the views too.")
    ] = False,
    count: Count = 100,
    seeds: Seeds = 1,
    size: Size = None,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    *,
    beside: BaselineOptions,
    opening: ModelOptions,
) -> None:
    """Measure the correspondence recall@r: whether the nearest token in another view is at the true position.

    The two views of an image differ by a crop, a rotation, or both. Recall is the share of the points visible in both
    views whose nearest token by cosine is at most RADIUS patches from the true position; the report adds the recall by
    chance, and at 0.5, 1 and 2 patches. Writes correspondence.json and correspondence.png.

    [bold]Examples[/bold]

      gtsa eval correspondence runs/street --random vit_small --images photos/ --out eval/

      gtsa eval correspondence runs/a runs/b --images photos/ --out eval/ --color-augmentation --seeds 3
    """
    figure = figure_path(out, "correspondence", figure_format)
    paths = find_evaluation_images(images, out, models, beside.random, channels=True)
    from gtsa_kit.cli.support.evaluate_steps import evaluate_images
    from gtsa_kit.evaluation import correspondence as evaluation

    options = evaluation.CorrespondenceOptions(radius, color_augmentation, size=size)
    report = evaluate_images(
        *(paths, count, models, beside, opening),
        lambda opened, paths, on_progress: evaluation.correspondence(opened, paths, options, range(seeds), on_progress),
    )
    _write(report, figure, as_json, evaluation.CONDITIONS, f"correspondence recall@{radius:g}, %")


@with_option_groups
def rotation(
    images: Images,
    out: Out,
    models: Models = None,
    held_out: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Fraction of the images to measure the accuracy on.")
    ] = 0.3,
    count: Count = 200,
    seeds: Seeds = 3,
    size: Size = None,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    *,
    beside: BaselineOptions,
    opening: ModelOptions,
) -> None:
    """Measure the rotation accuracy of a linear probe, and whether the features have collapsed.

    The probe predicts the rotation (0, 90, 180 or 270 degrees) of held-out images; chance is 25%. The
    report adds the effective ranks and the standard deviation of tokens, which fall when features collapse. Writes
    rotation.json and rotation.png. Needs scikit-learn, from the extra `eval`.

    [bold]Examples[/bold]

      gtsa eval rotation runs/street --random vit_small --images photos/ --out eval/

      gtsa eval rotation runs/a runs/b --images photos/ --out eval/ --seeds 5 --json
    """
    figure = figure_path(out, "rotation", figure_format)
    paths = find_evaluation_images(images, out, models, beside.random, "sklearn", channels=True)
    from gtsa_kit.cli.support.evaluate_steps import evaluate_images
    from gtsa_kit.evaluation import rotation as evaluation

    options = evaluation.RotationOptions(held_out, size=size)
    report = evaluate_images(
        *(paths, count, models, beside, opening),
        lambda opened, paths, on_progress: evaluation.rotation(opened, paths, options, range(seeds), on_progress),
    )
    _write(report, figure, as_json, {"accuracy": "rotation"}, "rotation accuracy, %")


def _write(
    report: "Report",
    figure: Path,
    as_json: bool,
    measures: Mapping[str, str],
    ylabel: str,
    reference: tuple[float, str] | None = None,
) -> None:
    from gtsa_kit.cli.support.evaluate_steps import write_report
    from gtsa_kit.evaluation.support.plots import bar_chart
    from gtsa_kit.figures import save_figure

    save_figure(bar_chart(report, measures, ylabel, reference), figure)
    write_report(report, figure.parent, as_json)
