"""gtsa eval pca, neighbours: pictures to judge by eye."""

from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.evaluate.common import Images

Model = Annotated[Path, typer.Argument(help="A run folder, a .safetensors, or an exported file.", metavar="MODEL")]


def pca(
    model: Model,
    images: Images,
    out: Annotated[Path, typer.Option(help="Picture to write (PNG).")] = Path("pca.png"),
    count: Annotated[int, typer.Option(min=1, help="Photographs, evenly spread over the folder.")] = 6,
    size: Annotated[int, typer.Option(min=16, help="Longer side that the model sees, in pixels.")] = 448,
) -> None:
    """Draw photographs above their feature maps, coloured by principal components.

    [bold]Example[/bold]

      gtsa eval pca runs/street --images photos/ --out pca.png
    """
    from gtsa_kit.cli.progress import console
    from gtsa_kit.evaluation.pictures import pca_picture, spread
    from gtsa_kit.export import load
    from gtsa_kit.images import find_images

    paths = find_images(images).paths
    pca_picture(load(model), spread(paths, count), out, size)
    console().print(f"wrote {out}")


def neighbours(
    model: Model,
    images: Images,
    out: Annotated[Path, typer.Option(help="Folder for neighbours.png.", metavar="DIR")],
    count: Annotated[int, typer.Option(min=1, help="Photographs to ask for, evenly spread over the folder.")] = 6,
    top: Annotated[int, typer.Option(min=1, help="Neighbours of each.")] = 5,
) -> None:
    """Draw the nearest neighbours of some photographs, by cosine of their embeddings.

    [bold]Example[/bold]

      gtsa eval neighbours runs/street --images photos/ --out looks/
    """
    import numpy as np

    from gtsa_kit.cli.progress import console
    from gtsa_kit.embedding.stream import embed
    from gtsa_kit.evaluation.pictures import neighbours_picture
    from gtsa_kit.images import find_images

    found = find_images(images)
    by_name = {found.name(path): path for path in found.paths}
    vectors = {item.path: item.features.embedding for item in embed(images, model, on_broken=lambda *_: None)}
    paths = [by_name[name] for name in vectors]
    out.mkdir(parents=True, exist_ok=True)
    neighbours_picture(np.stack(list(vectors.values())), paths, out / "neighbours.png", count, top)
    console().print(f"wrote {out / 'neighbours.png'}")
