"""Cost of a second head beside an encoder, measured in one run.

Run: .venv/bin/python benchmarks/heads.py [--arch vit_small] [--size 448] [--classes 11] [--rounds 25] [--json FILE]

Encoder and heads have random weights, on which their time does not depend. They run as `gtsa serve` runs them:
`ServedModel` with one image. All variants are timed in turn in each round, and the fastest rounds are
compared, which other processes disturb least.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gtsa_kit.export import load
from gtsa_kit.export.head_export import export_head_artifact
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel, save_task_model
from gtsa_kit.models.task_spec import Label, TaskSpec, head_layers
from gtsa_kit.models.weights import save_encoder
from gtsa_kit.service.served_model import ServedModel
from gtsa_kit.tasks.heads import Head, check_head, open_head

console = Console(highlight=False)


def make_models(folder: Path, arch: str, classes: int, images: ParityImages) -> tuple[Path, dict[str, Path]]:
    """Export an encoder of random weights, and two heads of each kind; return their files."""
    torch.manual_seed(0)
    encoder = Encoder(arch).eval()  # type: ignore[arg-type]
    save_encoder(folder, encoder.vit.state_dict(), arch, {})
    layers = head_layers(ARCHITECTURES[arch], "segment", "fpn")  # type: ignore[index]
    options = ExportOptions(layers=layers)
    path = folder / "encoder.onnx"
    export_artifact(open_source(folder), "onnx", path, options, images)
    labels = tuple(Label(i, f"class {i}", (i, i, i)) for i in range(classes))
    heads = {}
    for kind in ("linear", "fpn"):
        for number in (1, 2):
            spec = TaskSpec("segment", labels, kind, layers if kind == "fpn" else ())
            model = TaskModel(encoder, spec).eval()
            run = folder / f"{kind}-{number}"
            run.mkdir()
            save_task_model(run, model, {})
            heads[run.name] = run / "head.onnx"
            export_head_artifact(open_source(run), heads[run.name], ExportOptions(), images)
    return path, heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_small", choices=sorted(ARCHITECTURES))
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--images", type=Path, help="Images of the parity gate; default: a sample image.")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        images = load_parity_images(args.images)
        path, files = make_models(Path(name), args.arch, args.classes, images)
        runner = load(path, "cpu")
        heads = {name: open_head(name.replace("-", "_"), file, "cpu") for name, file in files.items()}
        for head in heads.values():
            check_head(head, runner.manifest)
        seconds = measure(ServedModel(runner, list(heads.values())), heads, args.size, args.rounds)
    report(seconds, args)


def measure(model: ServedModel, heads: dict[str, Head], size: int, rounds: int) -> dict[str, float]:
    """Return the seconds of one image in the fastest round, with no head, with one and with two of each kind."""
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    variants: dict[str, list[frozenset[str]]] = {"encoder": [frozenset()]}
    for kind in ("linear", "fpn"):
        names = [head.name for name, head in heads.items() if name.startswith(kind)]
        variants |= {f"encoder, {i} {kind}": [frozenset(names[:i])] for i in (1, 2)}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 2):
        for name, heads_of_image in variants.items():
            started = time.perf_counter()
            model(image, heads_of_image)
            times[name].append(time.perf_counter() - started)
    return {name: min(values[2:]) for name, values in times.items()}


def report(seconds: dict[str, float], args: argparse.Namespace) -> None:
    table = Table(title=f"{args.arch}, {args.size} pixels, {args.classes} classes, {torch.get_num_threads()} threads")
    for column in ("model", "ms", "second head, share of the encoder"):
        table.add_column(column, justify="left" if column == "model" else "right")
    base = seconds["encoder"]
    for name, value in seconds.items():
        second = (value - seconds[name.replace(" 2 ", " 1 ")]) / base if " 2 " in name else None
        table.add_row(name, f"{1000 * value:.1f}", "" if second is None else f"{100 * second:.1f}%")
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps(seconds, indent=2) + "\n")


if __name__ == "__main__":
    main()
