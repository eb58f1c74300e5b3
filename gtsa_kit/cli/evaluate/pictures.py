"""gtsa eval pca, attention, matches, neighbors: pictures to judge by eye."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.evaluate_options import Device, Images, Json, Models, Out, Random, Seeds, Size, show

Model = Annotated[Path, typer.Argument(help="A run folder, a .safetensors, or an exported file.", metavar="MODEL")]
Count = Annotated[int, typer.Option(min=1, help="Images, evenly spread over the folder.")]


def pca(
    images: Images,
    out: Out,
    models: Models = None,
    random: Random = None,
    count: Count = 6,
    size: Annotated[int, typer.Option(min=16, help="Longer side that the models see, in pixels.")] = 448,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Draw images above their feature maps, colored by principal components, a row for each model.

    Writes pca.png, and pca.json with the share of the variance that the colors show: near 100% means features of few
    dimensions.

    [bold]Examples[/bold]

      gtsa eval pca runs/street --images photos/ --out looks/

      gtsa eval pca runs/street runs/street/encoder-int8.onnx --random vit_small --images photos/ --out looks/
    """
    from gtsa_kit.cli.support.evaluate_progress import measured, warn
    from gtsa_kit.evaluation import pca as measure

    report = measured(
        *(images, count, models, random, device),
        lambda opened, paths, tell: measure.pca(opened, paths, out / "pca.png", size, tell),
    )
    warn(report)
    show(report, out, as_json)


def attention(
    images: Images,
    out: Out,
    models: Models = None,
    random: Random = None,
    count: Count = 4,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Draw where the last block looks: the pooled patch tokens, and the class token by head.

    It needs weights: a run folder, a .safetensors, or a float32 .onnx of ours. Writes attention.png and attention.json.

    [bold]Examples[/bold]

      gtsa eval attention runs/street --images photos/ --out looks/

      gtsa eval attention runs/street --random vit_small --images photos/ --out looks/ --count 2 --size 448
    """
    from gtsa_kit.cli.support.evaluate_progress import progress_bar, warn
    from gtsa_kit.data.image_files import find_images
    from gtsa_kit.evaluation import attention as measure
    from gtsa_kit.evaluation.models import open_encoders
    from gtsa_kit.evaluation.scenes import spread

    paths = spread(find_images(require(images)).paths, count)
    encoders = open_encoders(models or [], random or [])
    with progress_bar() as tell:
        report = measure.attention(encoders, paths, out / "attention.png", size, tell)
    warn(report)
    show(report, out, as_json)


def matches(
    out: Out,
    models: Models = None,
    images: Annotated[Path | None, typer.Option(help="Images, two views of each.", metavar="FOLDER")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="In place of it, pairs of images: a text file, two paths a line, a tab between.", metavar="FILE"
        ),
    ] = None,
    random: Random = None,
    count: Annotated[int, typer.Option(min=1, help="Images or pairs that are measured.")] = 50,
    draw: Annotated[int, typer.Option(min=1, help="Of them, how many are drawn.")] = 4,
    lines: Annotated[int, typer.Option(min=1, help="Matches drawn of each.")] = 24,
    seeds: Seeds = 1,
    size: Size = None,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Draw the pairs of patches that the correspondence loss pulls together, the paper's figure 3.

    Between two views (crop and turn) of an image it also says how far they lie from the true place. Writes
    matches.png and matches.json.

    [bold]Examples[/bold]

      gtsa eval matches runs/street --random vit_small --images photos/ --out looks/

      gtsa eval matches runs/street --pairs pairs.txt --out looks/ --lines 40
    """
    from gtsa_kit.cli.support.evaluate_progress import progress_bar, warn
    from gtsa_kit.data.image_files import find_images
    from gtsa_kit.evaluation import matches as measure
    from gtsa_kit.evaluation.match_lines import draw_matches
    from gtsa_kit.evaluation.models import open_models
    from gtsa_kit.evaluation.scenes import spread

    if (images is None) == (pairs is None):
        raise ValueError("give either --images or --pairs; --images photos/ matches two views of each image")
    found: Sequence[Path | tuple[Path, Path]]
    found = measure.read_pairs(require(pairs)) if pairs else find_images(require(images or Path())).paths
    opened, settings = open_models(models or [], random or [], device=device), measure.Settings(size=size)
    with progress_bar() as tell:
        report = measure.matches(opened, spread(found, count), settings, range(seeds), tell)
    draw_matches(opened, spread(found, draw), out / "matches.png", settings, lines=lines)
    warn(report)
    show(report, out, as_json)


def neighbors(
    model: Model,
    images: Images,
    out: Annotated[Path, typer.Option(help="Folder for neighbors.png.", metavar="DIR")],
    count: Annotated[int, typer.Option(min=1, help="Images to ask for, evenly spread over the folder.")] = 6,
    top: Annotated[int, typer.Option(min=1, help="Neighbors of each.")] = 5,
) -> None:
    """Draw the nearest neighbors of some images, by cosine of their embeddings.

    [bold]Example[/bold]

      gtsa eval neighbors runs/street --images photos/ --out looks/
    """
    import numpy as np

    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.data.image_files import find_images
    from gtsa_kit.embedding.iterate import embed
    from gtsa_kit.evaluation.neighbors import neighbors_picture

    found = find_images(images)
    by_name = {found.name(path): path for path in found.paths}
    vectors = {item.path: item.features.embedding for item in embed(images, model, on_unreadable=lambda *_: None)}
    paths = [by_name[name] for name in vectors]
    out.mkdir(parents=True, exist_ok=True)
    neighbors_picture(np.stack(list(vectors.values())), paths, out / "neighbors.png", count, top)
    make_console().print(f"wrote {out / 'neighbors.png'}")
