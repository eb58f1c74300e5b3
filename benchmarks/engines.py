"""Build time and size of TensorRT engines of ViT-S/16, and their speed on a GPU.

Run: .venv/bin/python benchmarks/engines.py --images FOLDER [--precisions fp32,fp16,bf16,int8]
     [--runtime auto] [--batch 32] [--rounds 5] [--json FILE]

Without a GPU it prints the table of builds by TensorRT-RTX. With a GPU it also measures the images per second of each
engine, of torch.compile and of ONNX Runtime in alternating rounds. The images are on the GPU already; for ONNX Runtime
they are in host memory, as its callers usually have them.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from inference import random_run
from rich.console import Console
from rich.table import Table

from gtsa_kit.export import load
from gtsa_kit.export.manifest import graph_path
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.pipeline import read_calibration
from gtsa_kit.export.runtime.profile import InputRanges, OptimalShape
from gtsa_kit.export.runtime.tensorrt_runner import EngineRunner
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant, check_capabilities, choose_variant
from gtsa_kit.export.source import Source, open_source
from gtsa_kit.export.spec import QUANTIZED, ExportOptions, Range
from gtsa_kit.export.tensorrt.build import BuildSettings
from gtsa_kit.export.tensorrt.engine import EngineRequest, export_graph, write_engine

SIDE = 224
LAYERS = (2, 5, 8, 11)
GRAPHS = {
    "any size": (Range(16, 512), ()),
    "any size, layers": (Range(16, 512), LAYERS),
    "224": (Range(SIDE, SIDE), ()),
}
console = Console(highlight=False, width=120)


@dataclass(frozen=True)
class BuiltEngine:
    """Result of one build."""

    precision: str
    graph: str
    seconds: float
    megabytes: float
    variant: str
    capabilities: tuple[str, ...]
    path: str


def build(
    source: Source, variant: TensorRTVariant, precision: str, graph: str, batch: int, images: Path, folder: Path
) -> BuiltEngine:
    """Export a graph through its parity gate, and build an engine from it."""
    sides, layers = GRAPHS[graph]
    options = ExportOptions(precision=precision, height=sides, width=sides, batch=Range(1, batch), layers=layers)
    path = folder / f"{precision} {graph}.engine"
    calibration = read_calibration(images) if precision in QUANTIZED else None
    exported = export_graph(source, path, options, load_parity_images(images), calibration)
    gpus = check_capabilities(variant, (), precision, dynamic=not sides.fixed)
    ranges = InputRanges(options.batch, sides, sides)
    request = EngineRequest(
        variant, BuildSettings(gpus, tf32=precision == "tf32"), ranges, OptimalShape(batch, (SIDE, SIDE)), precision
    )
    record = write_engine(exported, path, request).engine
    assert record is not None
    size = path.stat().st_size / 1e6
    return BuiltEngine(
        precision, graph, record.seconds, size, f"{record.variant} {record.version}", record.capabilities, str(path)
    )


def make_runs(source: Source, built: list[BuiltEngine], batch: int) -> dict[str, Callable[[], object]]:
    """Return functions that run a batch on the GPU, by name."""
    images = torch.randn(batch, 3, SIDE, SIDE, device="cuda")
    plain = source.encoder.cuda().eval()
    compiled = torch.compile(plain, dynamic=False)
    runs: dict[str, Callable[[], object]] = {}

    def autocast(module: Callable[[torch.Tensor], object], dtype: torch.dtype) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode(), torch.autocast("cuda", dtype):
                return module(images)

        return run

    runs["PyTorch fp16 autocast"] = autocast(plain, torch.float16)
    runs["torch.compile fp16"] = autocast(compiled, torch.float16)
    runs["torch.compile bf16"] = autocast(compiled, torch.bfloat16)
    host = images.cpu().numpy()
    for one in (one for one in built if one.graph == "any size"):
        engine = load(one.path, "cuda")
        assert isinstance(engine, EngineRunner)
        runs[f"engine {one.precision}"] = lambda engine=engine: engine.run_tensors(images)  # type: ignore[misc]
        if one.precision in ("fp32", "fp16"):
            session = load(graph_path(Path(one.path)), "cuda", provider="cuda")
            runs[f"ONNX Runtime CUDA {one.precision}"] = lambda session=session: session(host)  # type: ignore[misc]
    return runs


def measure_rates(runs: dict[str, Callable[[], object]], batch: int, rounds: int, calls: int = 20) -> dict[str, float]:
    """Return images per second by name, as the median of rounds in which every function runs."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(5):
            run()
    for _ in range(rounds):
        for name, run in runs.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            torch.cuda.synchronize()
            rates[name].append(batch * calls / (time.perf_counter() - start))
    return {name: median(values) for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--precisions", default="fp32,fp16,bf16,int8")
    parser.add_argument("--runtime", default="auto", help="variant of TensorRT: auto, tensorrt or tensorrt-rtx")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    variant, reason = choose_variant(args.runtime)
    console.print(f"{variant.name} {variant.version}: {reason}")
    table = Table(title="engines of ViT-S/16, batches of 1 to 32", title_justify="left", box=None)
    for name in ("precision", "size of the input", "built in s", "MB", "compute capabilities"):
        table.add_column(name, justify="right" if name in ("built in s", "MB") else "left")
    built = []
    with tempfile.TemporaryDirectory() as name:
        source = open_source(random_run(Path(name)))
        for precision in args.precisions.split(","):
            for graph in GRAPHS:
                one = build(source, variant, precision, graph, args.batch, args.images, Path(name))
                built.append(one)
                capabilities = ", ".join(one.capabilities)
                table.add_row(precision, graph, f"{one.seconds:.1f}", f"{one.megabytes:.1f}", capabilities)
        console.print(table)
        speeds = {}
        if torch.cuda.is_available():
            speeds = measure_rates(make_runs(source, built, args.batch), args.batch, args.rounds)
            print_speeds(speeds, args.batch)
        else:
            console.print("there is no GPU, so the speed of the engines is not measured")
    if args.json:
        rows = [asdict(one) | {"path": ""} for one in built]
        args.json.write_text(json.dumps({"engines": rows, "images_per_second": speeds}, indent=2))


def print_speeds(speeds: dict[str, float], batch: int) -> None:
    title = f"images per second at {SIDE}, batch {batch}, {torch.cuda.get_device_name()}"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("", "images/s", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    base = speeds["torch.compile fp16"]
    for name, rate in speeds.items():
        table.add_row(name, f"{rate:.0f}", f"{rate / base:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
