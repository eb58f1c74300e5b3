"""Command `gtsa bench`."""

import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.options import JsonOption, LayersOption, ModelOptions, with_option_groups
from gtsa_kit.cli.support.parsing import parse_layers, parse_side

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gtsa_kit.export.benchmark.compare import BatchShape, OpenFile, Speed
    from gtsa_kit.export.manifest import Manifest
    from gtsa_kit.export.open_options import LoadOptions
    from gtsa_kit.export.parity_images import ParityImages
    from gtsa_kit.export.source import Source

    Skipped = tuple[str, BatchShape, str]
    """Name of a file, shape that it does not accept, and the reason."""


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


def gate(manifest: "Manifest | None") -> str:
    """Return the result of the parity gate at the time of the export: "passed", "FAILED" or "none"."""
    if manifest is None or manifest.parity is None:
        return "none"
    return "passed" if manifest.parity.passed else "FAILED"


def speed_table(speeds: "list[Speed]", gates: dict[str, str], first: str) -> "Table":
    """Build the table of speeds at one shape."""
    from rich.table import Table

    title = f"{speeds[0].shape}, latencies in ms"
    comparison = "cosine" if all(speed.agreement is None for speed in speeds) else "same class"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for column in ("images/s", "ratio", "p50", "p95", "p99", "load s", "MB", comparison):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("gate", no_wrap=True)
    for speed in speeds:
        table.add_row(
            speed.name,
            f"{speed.images_per_second:.1f}",
            _or_blank(ratio(speed, speeds, first), ".2f"),
            *(f"{latency:.1f}" for latency in (speed.p50, speed.p95, speed.p99)),
            f"{speed.load_seconds:.2f}",
            _or_blank(speed.memory_mb, ".0f"),
            speed.problem or _or_blank(speed.min_cosine, ".6f") or _or_blank(speed.agreement, ".4%"),
            gates[speed.name],
        )
    return table


def ratio(speed: "Speed", speeds: "list[Speed]", first: str) -> float | None:
    """Return images per second relative to the first file at the same shape; None if that file has no such row."""
    base = next((one for one in speeds if (one.name, one.shape) == (first, speed.shape)), None)
    return speed.images_per_second / base.images_per_second if base else None


def as_data(
    speeds: "list[Speed]",
    gates: dict[str, str],
    skipped: "list[Skipped]",
    reference: str,
    origin: str,
) -> dict[str, Any]:
    """Return the measurements as JSON data."""
    first = next(iter(gates))
    return {
        "images": origin,
        "reference": reference,
        "speeds": [
            asdict(speed) | {"ratio": ratio(speed, speeds, first), "gate": gates[speed.name]} for speed in speeds
        ],
        "skipped": [{"name": name, "shape": asdict(shape), "reason": reason} for name, shape, reason in skipped],
    }


def _or_blank(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
