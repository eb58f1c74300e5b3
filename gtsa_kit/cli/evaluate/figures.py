"""The commands `gtsa eval pca`, `attention`, `matches` and `neighbors`: figures for visual inspection."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.checks import check_evaluation, find_evaluation_images
from gtsa_kit.cli.support.common import require
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
from gtsa_kit.cli.support.options import DeviceOption, JsonOption, ModelOptions, WeightsOptions, with_option_groups

Count = Annotated[int, typer.Option(min=1, help="Number of images, evenly spaced over the folder.")]


@with_option_groups
def pca(
    images: Images,
    out: Out,
    models: Models = None,
    count: Count = 6,
    size: Annotated[int, typer.Option(min=1, help="Longer side of the input, in pixels.")] = 448,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    *,
    beside: BaselineOptions,
    opening: ModelOptions,
) -> None:
    """Draw images above their feature maps, colored by principal components, a row for each model.

    Equal colors mean equal features in all images of a row. Writes pca.png, and pca.json with the share of the variance
    in the three components; near 100% means that the features have few dimensions.

    [bold]Examples[/bold]

      gtsa eval pca runs/street --images photos/ --out eval/

      gtsa eval pca runs/street runs/street/encoder-int8.onnx --random vit_small --images photos/ --out eval/
    """
    figure = figure_path(out, "pca", figure_format)
    paths = find_evaluation_images(images, out, models, beside.random, channels=True)
    from gtsa_kit.cli.support.evaluate_steps import evaluate_images, write_report
    from gtsa_kit.evaluation import pca as evaluation

    report = evaluate_images(
        *(paths, count, models, beside, opening),
        lambda opened, paths, on_progress: evaluation.pca(opened, paths, figure, size, on_progress),
    )
    write_report(report, out, as_json)


@with_option_groups
def attention(
    images: Images,
    out: Out,
    models: Models = None,
    count: Count = 4,
    size: Size = None,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    *,
    beside: BaselineOptions,
    weights: WeightsOptions,
) -> None:
    """Draw the attention maps of the last block: the mean over patch tokens, and the class token by head.

    A ViT without a class token has the patch tokens by head in its place.

    It needs weights, which PyTorch runs (no --provider): a run folder, a .safetensors, or a float32 .onnx exported by
    gtsa. Writes attention.png and attention.json.

    [bold]Examples[/bold]

      gtsa eval attention runs/street --images photos/ --out eval/

      gtsa eval attention runs/street --random vit_small --images photos/ --out eval/ --count 2 --size 448
    """
    figure = figure_path(out, "attention", figure_format)
    files = find_evaluation_images(images, out, models, beside.random, channels=True)
    from gtsa_kit.cli.support.evaluate_steps import open_encoders_for_evaluation, write_report
    from gtsa_kit.cli.support.progress import progress_bar
    from gtsa_kit.evaluation import attention as evaluation
    from gtsa_kit.evaluation.eval_images import evenly_spaced

    paths = evenly_spaced(files, count)
    encoders = open_encoders_for_evaluation(models, beside, weights, device)
    with progress_bar() as on_progress:
        report = evaluation.attention(encoders, paths, figure, size, on_progress)
    write_report(report, out, as_json)


@with_option_groups
def matches(
    out: Out,
    models: Models = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Images, two views of each. Default: none; --pairs names them.", metavar="FOLDER"),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="In place of --images, a text file with two tab-separated paths a line. Default: none.",
            metavar="FILE",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images or pairs to measure.")] = 50,
    figure_rows: Annotated[int, typer.Option(min=1, help="Number of images or pairs in the figure.")] = 4,
    lines: Annotated[int, typer.Option(min=1, help="Number of matches to draw for each.")] = 24,
    seeds: Seeds = 1,
    size: Size = None,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    *,
    beside: BaselineOptions,
    opening: ModelOptions,
) -> None:
    """Draw the patch matches that the correspondence loss selects: figure 3 of the paper.

    For two views (crop and rotation) of an image, it also measures the distance of the matches from the true positions.
    Writes matches.png and matches.json.

    [bold]Examples[/bold]

      gtsa eval matches runs/street --random vit_small --images photos/ --out eval/

      gtsa eval matches runs/street --pairs pairs.txt --out eval/ --lines 40
    """
    figure = figure_path(out, "matches", figure_format)
    if (images is None) == (pairs is None):
        raise ValueError("give either --images or --pairs; --images photos/ matches two views of each image")
    files = find_evaluation_images(images, out, models, beside.random, channels=True) if images else []
    if pairs:
        require(pairs)
        check_evaluation(out, models, beside.random)
    from gtsa_kit.cli.support.evaluate_steps import open_for_evaluation, write_report
    from gtsa_kit.cli.support.progress import progress_bar
    from gtsa_kit.evaluation import matches as evaluation
    from gtsa_kit.evaluation.eval_images import evenly_spaced
    from gtsa_kit.evaluation.image_pairs import read_pairs
    from gtsa_kit.evaluation.match_plot import draw_matches

    paths: Sequence[Path | tuple[Path, Path]] = read_pairs(pairs) if pairs else files
    opened = open_for_evaluation(models, beside, opening, channels=True)
    options = evaluation.MatchesOptions(size=size)
    with progress_bar() as on_progress:
        report = evaluation.matches(opened, evenly_spaced(paths, count), options, range(seeds), on_progress)
    draw_matches(opened, evenly_spaced(paths, figure_rows), figure, options, lines=lines)
    write_report(report, out, as_json)


@with_option_groups
def neighbors(
    images: Images,
    out: Annotated[Path, typer.Option(help="Folder for the figure.", metavar="DIR")],
    models: Models = None,
    count: Annotated[int, typer.Option(min=1, help="Number of query images, evenly spaced over the folder.")] = 6,
    top: Annotated[int, typer.Option(min=1, help="Number of neighbors of each query.")] = 5,
    size: Size = None,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    *,
    beside: BaselineOptions,
    opening: ModelOptions,
) -> None:
    """Draw the nearest neighbors of some images, by cosine of their embeddings, a row for each query and model.

    [bold]Example[/bold]

      gtsa eval neighbors runs/street --images photos/ --out eval/
    """
    figure = figure_path(out, "neighbors", figure_format)
    files = find_evaluation_images(images, out, models, beside.random, channels=True)
    from gtsa_kit.cli.support.evaluate_steps import open_for_evaluation
    from gtsa_kit.cli.support.progress import make_console, progress_bar
    from gtsa_kit.evaluation.embeddings import embed_images
    from gtsa_kit.evaluation.neighbors import draw_neighbors, finite_vectors, list_neighbors
    from gtsa_kit.figures import save_figure

    opened, vectors, console = open_for_evaluation(models, beside, opening, channels=True), {}, make_console()
    with progress_bar() as on_progress:
        for model in opened:
            embedded = embed_images(model.runner, files, size, on_progress, f"embedding with {model.name}")
            vectors[model.name] = embedded.vectors
    if embedded.skipped:
        first = embedded.skipped[0]
        console.print(f"{len(embedded.skipped)} files skipped, first {first.path}: {first.reason}", soft_wrap=True)
    vectors, paths, not_finite = finite_vectors(vectors, [files[index] for index in embedded.indices])
    if not_finite:
        names = ", ".join(image.name for image in not_finite[:3]) + (" and others" if len(not_finite) > 3 else "")
        console.print(f"left out, NaN or infinity in their vectors: {len(not_finite)} images, {names}", soft_wrap=True)
    save_figure(draw_neighbors(vectors, paths, count, top, opened[0].runner.preprocessing), figure)
    if as_json:
        rows = list_neighbors(vectors, paths, count, top)
        print(json.dumps({"figure": str(figure), "rows": rows}, indent=2, ensure_ascii=False))
    console.print(f"wrote {figure}", soft_wrap=True)
