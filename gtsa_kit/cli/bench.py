"""gtsa bench."""

import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.parsing import parse_side
from gtsa_kit.cli.support.providers import EngineCacheOption, FallbackOption, ProviderOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gtsa_kit.export.benchmark.compare import BatchShape, OpenFile, Speed
    from gtsa_kit.export.manifest import Manifest
    from gtsa_kit.export.parity_images import ParityImages
    from gtsa_kit.export.source import Source

    Refusal = tuple[str, BatchShape, str]
    """Name, shape, and why it is not taken."""


def bench(
    files: Annotated[
        list[Path],
        typer.Argument(help="Exported files, run folders or weights; ratios are to the first.", metavar="FILE..."),
    ],
    batch: Annotated[str, typer.Option(help="Batch sizes: 1,8,32.")] = "1,8",
    size: Annotated[str, typer.Option(help="Sizes: N or HEIGHTxWIDTH, multiples of 16: 224,480x640.")] = "224",
    seconds: Annotated[float, typer.Option(min=0.0, help="Of measured calls for each file and shape.")] = 3.0,
    against: Annotated[
        Path | None,
        typer.Option(
            help="The run or weights that cosines are to. Default: what the first file came from, if that is beside it "
            "or inside it; else the first file.",
            metavar="SOURCE",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Images. Default: those of the run, else a sample of matplotlib's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    provider: ProviderOption = "auto",
    engine_cache: EngineCacheOption = None,
    fallback: FallbackOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Compare how fast files are on this machine, what they hold in memory, and how far they are from the encoder.

    Each file is opened in a process of its own and has all cores when it is its turn; turns of a quarter of a second
    go round until each has had its time. Latencies are of a batch; the ratio is of images a second.

    [bold]Examples[/bold]

      gtsa bench runs/street runs/street/encoder.onnx runs/street/encoder.xml

      gtsa bench a/encoder.onnx b/encoder.onnx --batch 1,8,32 --size 224,480x640 --images photos/ --json
    """
    for file in files:
        require(file)
    batches, sizes = parse_batches(batch), parse_sides(size)
    from gtsa_kit.cli.support.progress import console
    from gtsa_kit.export.benchmark.compare import BatchShape
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.export.source import open_source

    names = distinct_names(files)
    manifests = {name: manifest_of(file) for name, file in zip(names, files, strict=True)}
    source = open_source(require(against)) if against else origin_of(files[0], manifests[names[0]])
    parity_set = load_parity_images(require(images) if images else source.images if source else None)
    shapes = [BatchShape(number, *side) for side in sizes for number in batches]
    asked = provider, engine_cache, fallback
    openers = {name: _opener(file, device, *asked) for name, file in zip(names, files, strict=True)}
    shown = console()
    speeds, refused = _measure(openers, shapes, parity_set, seconds, source, shown)
    gates = {name: gate(manifest) for name, manifest in manifests.items()}
    reference = str(source.path) if source else names[0]
    if as_json:
        print(json.dumps(as_data(speeds, gates, refused, reference, parity_set.origin), indent=2))
        return
    for shape in dict.fromkeys(speed.shape for speed in speeds):
        shown.print(speed_table([speed for speed in speeds if speed.shape == shape], gates, names[0]))
    for name, runs in {speed.name: speed.provider for speed in speeds}.items():
        shown.print(f"{name}: {runs}", soft_wrap=True)
    shown.print(f"cosines are of the worst patch token, to {reference}", soft_wrap=True)


def _opener(file: Path, device: str, provider: str, engine_cache: Path | None, fallback: bool) -> "OpenFile":
    """What is said of ONNX Runtime's providers is for the ONNX files among the others."""
    from gtsa_kit.export.benchmark.compare import OpenFile
    from gtsa_kit.export.spec import SUFFIX

    if file.is_dir() or file.suffix != SUFFIX["onnx"]:
        return OpenFile(file, device)
    return OpenFile(file, device, provider, engine_cache, fallback)


def _measure(
    openers: "dict[str, OpenFile]",
    shapes: "list[BatchShape]",
    parity_set: "ParityImages",
    seconds: float,
    source: "Source | None",
    shown: "Console",
) -> "tuple[list[Speed], list[Refusal]]":
    from gtsa_kit.cli.support.progress import Steps
    from gtsa_kit.export.benchmark.compare import compare_speed

    if hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) / 4:
        load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        shown.print(
            f"the last minute's load was {load}: where others compute too, figures are low, PyTorch's most of all"
        )
    shown.print(f"opening {len(openers)}, each in a process of its own; measuring on {parity_set.origin}")
    refused: list[Refusal] = []
    with Steps(shown) as steps:
        steps.begin("measuring, per cent", 100)
        speeds = compare_speed(
            openers,
            shapes,
            parity_set,
            seconds,
            source.encoder if source else None,
            lambda *what: refused.append(what),
            lambda share: steps.update(round(100 * share)),
        )
    for name, shape, why in refused:
        shown.print(f"{name} does not take {shape}: {why}", soft_wrap=True)
    if not speeds:
        raise ValueError("nothing was measured: no file takes any of the shapes; choose others with --batch and --size")
    return speeds, refused


def parse_batches(text: str) -> list[int]:
    """`1,8,32` to numbers, else `ValueError`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"--batch takes numbers from 1, like 1,8,32, got {text!r}")
    return [int(part) for part in dict.fromkeys(parts)]


def parse_sides(text: str) -> list[tuple[int, int]]:
    """`224,480x640` to (height, width) each, else `ValueError`."""
    from gtsa_kit.config import PATCH

    sides = [parse_side(part, "--size") for part in text.split(",")]
    for side in sides:
        if any(length < PATCH or length % PATCH for length in side):
            raise ValueError(f"--size takes multiples of {PATCH}, got {side[0]} x {side[1]}")
    return list(dict.fromkeys(sides))


def distinct_names(files: list[Path]) -> list[str]:
    """File names; whole paths where two have the same, numbered where even these are."""
    short = [file.resolve().name for file in files]
    names = [str(file) if short.count(name) > 1 else name for file, name in zip(files, short, strict=True)]
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f"{name} ({seen[name]})"
    return names


def manifest_of(file: Path) -> "Manifest | None":
    """Of an exported file; runs and weights have none."""
    from gtsa_kit.export.formats.onnx_file import read_onnx_manifest
    from gtsa_kit.export.manifest import read_manifest
    from gtsa_kit.export.spec import SUFFIX

    if file.is_dir() or file.suffix not in SUFFIX.values():
        return None
    return read_onnx_manifest(file) if file.suffix == SUFFIX["onnx"] else read_manifest(file)


def origin_of(file: Path, manifest: "Manifest | None") -> "Source | None":
    """The encoder that a file came from, or is; None if it is not to be found."""
    from gtsa_kit.export.source import find_reference, open_source

    return find_reference(file, manifest) if manifest else open_source(file)


def gate(manifest: "Manifest | None") -> str:
    """What the parity gate said when the file was written."""
    if manifest is None or manifest.parity is None:
        return "none"
    return "held" if manifest.parity.passed else "FAILED"


def speed_table(speeds: "list[Speed]", gates: dict[str, str], first: str) -> "Table":
    """Speeds at one shape."""
    from rich.table import Table

    title = f"{speeds[0].shape}, latencies in ms"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for column in ("images/s", "ratio", "p50", "p95", "p99", "load s", "MB", "cosine"):
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
            _or_blank(speed.min_cosine, ".6f"),
            gates[speed.name],
        )
    return table


def ratio(speed: "Speed", speeds: "list[Speed]", first: str) -> float | None:
    """Images a second to those of the first file at that shape; None if that does not take it."""
    base = next((one for one in speeds if (one.name, one.shape) == (first, speed.shape)), None)
    return speed.images_per_second / base.images_per_second if base else None


def as_data(
    speeds: "list[Speed]",
    gates: dict[str, str],
    refused: "list[Refusal]",
    reference: str,
    origin: str,
) -> dict[str, Any]:
    """For JSON."""
    first = next(iter(gates))
    return {
        "images": origin,
        "reference": reference,
        "speeds": [
            asdict(speed) | {"ratio": ratio(speed, speeds, first), "gate": gates[speed.name]} for speed in speeds
        ],
        "refused": [{"name": name, "shape": asdict(shape), "why": why} for name, shape, why in refused],
    }


def _or_blank(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
