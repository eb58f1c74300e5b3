"""Command `gtsa bench`."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.options import JsonOption, LayersOption, ModelOptions, with_option_groups
from gtsa_kit.cli.support.parsing import parse_layers, parse_side

if TYPE_CHECKING:
    from rich.console import Console

    from gtsa_kit.cli.support.bench_results import Skipped
    from gtsa_kit.export.benchmark.compare import BatchShape, OpenFile, Speed
    from gtsa_kit.export.manifest import Manifest
    from gtsa_kit.export.open_options import LoadOptions
    from gtsa_kit.export.parity_images import ParityImages
    from gtsa_kit.export.source import Source


@with_option_groups
def bench(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Exported files, run folders or weights. Ratios are relative to the first.", metavar="FILE"
        ),
    ],
    batch: Annotated[str, typer.Option(help="Batch sizes, for example 1,8,32.")] = "1,8",
    size: Annotated[
        str, typer.Option(help="Image sizes, N or HEIGHTxWIDTH, multiples of the patch size, for example 224,480x640.")
    ] = "224",
    seconds: Annotated[float, typer.Option(min=0.0, help="Measured time for each file and shape, in seconds.")] = 3.0,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Run or weights that the cosines compare with. Default: the source of the first file, if it is beside "
            "that file, in the folder above, or inside it; else the first file.",
            metavar="SOURCE",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images. Default: the images of the run, else a sample image of matplotlib."),
    ] = None,
    layers: LayersOption = None,
    as_json: JsonOption = False,
    *,
    opening: ModelOptions,
) -> None:
    """Compare files on this machine: speed, memory use, and difference from the encoder.

    Each file is opened in a process of its own. The processes run one after the other on all cores, in time slices of
    a quarter of a second, until each has run for --seconds. A latency is that of a batch; the ratio compares images
    per second.

    [bold]Examples[/bold]

      gtsa bench runs/street runs/street/encoder.onnx runs/street/encoder.xml

      gtsa bench a/encoder.onnx b/encoder.onnx --batch 1,8,32 --size 224,480x640 --images photos/ --json
    """
    for file in files:
        require(file)
    batches, sizes = parse_batches(batch), parse_sides(size)
    options = opening.load_options(parse_layers(layers))
    from gtsa_kit.cli.support.bench_results import as_data, gate, speed_table
    from gtsa_kit.cli.support.opening import options_by_file
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.export.benchmark.compare import BatchShape, OpenFile
    from gtsa_kit.export.parity_images import load_parity_images

    console = make_console()
    names = distinct_names(files)
    manifests = {name: manifest_of(file) for name, file in zip(names, files, strict=True)}
    own_options = options_by_file([*files, *([against] if against else [])], options)
    source = _open_reference(files[0], manifests[names[0]], against, own_options, console)
    folder = require(images) if images else source.images if source else None
    parity_set = load_parity_images(folder, source.encoder.preprocessing if source else None)
    shapes = [BatchShape(number, *side) for side in sizes for number in batches]
    openers = {name: OpenFile(file, own_options[file]) for name, file in zip(names, files, strict=True)}
    speeds, skipped = _measure(openers, shapes, parity_set, seconds, source, console)
    gates = {name: gate(manifest) for name, manifest in manifests.items()}
    reference = str(source.path) if source else names[0]
    if as_json:
        print(json.dumps(as_data(speeds, gates, skipped, reference, parity_set.origin), indent=2))
        return
    for shape in dict.fromkeys(speed.shape for speed in speeds):
        console.print(speed_table([speed for speed in speeds if speed.shape == shape], gates, names[0]))
    for name, used in {speed.name: speed.provider for speed in speeds}.items():
        console.print(f"{name}: {used}", soft_wrap=True)
    is_task = any(speed.agreement is not None for speed in speeds)
    measure = "same class: share of pixels, images or detections" if is_task else "cosine: worst patch token"
    console.print(f"{measure}, compared with {reference}", soft_wrap=True)


def _open_reference(
    first: Path,
    manifest: "Manifest | None",
    against: Path | None,
    options: "dict[Path, LoadOptions]",
    console: "Console",
) -> "Source | None":
    """Open the encoder to compare with; the note of the first file's weights is printed when its process opens them."""
    from gtsa_kit.cli.support.opening import open_encoder
    from gtsa_kit.export.reference import open_reference
    from gtsa_kit.export.source import open_source

    if against:
        return open_encoder(require(against), options[against].import_options, console)
    return open_reference(first, manifest) if manifest else open_source(first, options[first].import_options)


def _measure(
    openers: "dict[str, OpenFile]",
    shapes: "list[BatchShape]",
    parity_set: "ParityImages",
    seconds: float,
    source: "Source | None",
    console: "Console",
) -> "tuple[list[Speed], list[Skipped]]":
    from gtsa_kit.cli.support.opening import print_note
    from gtsa_kit.cli.support.progress import Steps
    from gtsa_kit.export.benchmark.compare import compare_speed

    if hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) / 4:
        load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        console.print(
            f"the load average of the last minute is {load}; other programs lower the figures, those of PyTorch most"
        )
    console.print(f"opening {len(openers)} files, each in a process of its own; measuring on {parity_set.origin}")
    skipped: list[Skipped] = []
    with Steps(console) as steps:
        steps.begin("measuring, percent", 100)
        speeds = compare_speed(
            openers,
            shapes,
            parity_set,
            seconds,
            source.model if source else None,
            lambda *entry: skipped.append(entry),
            lambda share: steps.update(round(100 * share)),
            lambda name, note: print_note(name, note, console),
        )
    for name, shape, reason in skipped:
        console.print(f"{name} does not accept {shape}: {reason}", soft_wrap=True)
    if not speeds:
        raise ValueError("nothing was measured: no file accepts any of the shapes; change --batch and --size")
    return speeds, skipped


def parse_batches(text: str) -> list[int]:
    """Parse `1,8,32` into batch sizes; raise `ValueError` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"--batch takes numbers from 1, for example 1,8,32; got {text!r}")
    return [int(part) for part in dict.fromkeys(parts)]


def parse_sides(text: str) -> list[tuple[int, int]]:
    """Parse `224,480x640` into pairs (height, width) in pixels; raise `ValueError` for anything else."""
    sides = [parse_side(part, "--size") for part in text.split(",")]
    for side in sides:
        if min(side) < 1:
            raise ValueError(f"--size takes sizes of at least 1 pixel, got {side[0]} x {side[1]}")
    return list(dict.fromkeys(sides))


def distinct_names(files: list[Path]) -> list[str]:
    """Return a distinct name for each file: its name, the path if names are equal, with a number if paths are equal."""
    short = [file.resolve().name for file in files]
    names = [str(file) if short.count(name) > 1 else name for file, name in zip(files, short, strict=True)]
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f"{name} ({seen[name]})"
    return names


def manifest_of(file: Path) -> "Manifest | None":
    """Return the manifest of an exported file, without a report that is not of it; runs and weights have none."""
    from gtsa_kit.export.formats.content import open_manifest
    from gtsa_kit.export.spec import SUFFIX

    if file.is_dir() or file.suffix not in SUFFIX.values():
        return None
    return open_manifest(file).manifest
