"""Speed of ViT-S/16 on the CPU in every format and precision, at 224 pixels.

Run: .venv/bin/python benchmarks/inference.py --images FOLDER [--source RUN] [--only NAME,NAME] [--batches 1,8,32]
     [--seconds 3] [--json FILE]

Each candidate runs in a process of its own, in alternating time slices on all cores
(gtsa_kit.export.benchmark.compare).
"""

import argparse
import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from gtsa_kit.export.benchmark.compare import BatchShape, OpenFile, Speed, compare_speed
from gtsa_kit.export.benchmark.workers import Opener
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.pipeline import export_artifact, read_calibration
from gtsa_kit.export.source import Source, open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.weights import save_encoder

SIDE = 224
BASELINE = "PyTorch fp32"
# PyTorch without export: (bf16, compiled).
MODULES = {BASELINE: (False, False), "PyTorch bf16 autocast": (True, False), "torch.compile bf16": (True, True)}
EXPORTS = {
    "TorchScript fp32": ("torchscript", "fp32"),
    "TorchScript bf16": ("torchscript", "bf16"),
    "pt2 fp32": ("pt2", "fp32"),
    "ONNX fp32": ("onnx", "fp32"),
    "ONNX fp32 plain session": ("onnx", "fp32"),
    "ONNX fp16": ("onnx", "fp16"),
    "ONNX int8": ("onnx", "int8"),
    "OpenVINO fp32": ("openvino", "fp32"),
    "OpenVINO bf16": ("openvino", "bf16"),
    "OpenVINO int8": ("openvino", "int8"),
}
FLAGS = "avx2 avx512f avx512_vnni avx_vnni avx512_bf16 amx_tile amx_bf16 amx_int8".split()
console = Console(highlight=False, width=120)


class ModuleRunner:
    """Runner of the encoder in PyTorch, without export."""

    def __init__(self, encoder: Encoder, bf16: bool, compiled: bool) -> None:
        self.preprocessing, self.bf16 = encoder.preprocessing, bf16
        # Static shapes: compiled once for each batch size, which is the fastest.
        self.module = torch.compile(encoder, dynamic=False) if compiled else encoder
        self.provider = "PyTorch, compiled" if compiled else "PyTorch"

    def __call__(self, images: np.ndarray) -> Features:
        """Compute the features of (B, 3, H, W) float32, normalized."""
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            features = self.module(torch.from_numpy(images))
        return Features(features.embedding.float().numpy(), features.feature_map.float().numpy())

    def prepare(self, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
        """Preprocess one image as an element of a batch."""
        return self.preprocessing(image, size)


class SessionRunner:
    """Runner of a plain ONNX Runtime session with default options."""

    provider = "ONNX Runtime"

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort

        self.session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, images: np.ndarray) -> Features:
        """Compute the features of (B, 3, H, W) float32, normalized."""
        return Features(*self.session.run(["embedding", "feature_map"], {"images": images}))

    def prepare(self, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
        """Preprocess one image as an element of a batch."""
        return Preprocessing()(image, size)


@dataclass(frozen=True)
class OpenModule:
    """Opener of weights as a `ModuleRunner`."""

    source: Path
    bf16: bool
    compiled: bool

    def __call__(self) -> ModuleRunner:
        """Open the weights."""
        return ModuleRunner(open_source(self.source).encoder, self.bf16, self.compiled)


@dataclass(frozen=True)
class OpenSession:
    """Opener of an ONNX file as a `SessionRunner`."""

    path: Path
    libraries = ("onnxruntime",)

    def __call__(self) -> SessionRunner:
        """Open the file."""
        return SessionRunner(self.path)


def random_run(folder: Path, arch: str = "vit_small") -> Path:
    """Save a run with random weights of realistic variance; timm's initial biases and norms would flatter int8."""
    torch.manual_seed(0)
    weights = Encoder(arch).vit.state_dict()
    for tensor in weights.values():
        tensor += torch.randn_like(tensor) * (0.3 if tensor.ndim < 2 else 0.02)
    save_encoder(folder, weights, arch, {})
    return folder


def make_openers(source: Source, folder: Path, names: list[str], folder_of_images: Path) -> dict[str, Opener]:
    """Export what is missing, and return the openers by name."""
    openers: dict[str, Opener] = {}
    images = load_parity_images(folder_of_images)
    calibration = read_calibration(folder_of_images)
    for name in names:
        if name in MODULES:
            openers[name] = OpenModule(source.path, *MODULES[name])
            continue
        file_format, precision = EXPORTS[name]
        if file_format == "openvino" and find_spec("openvino") is None:
            console.print(f"{name} is skipped: openvino is not installed")
            continue
        path = folder / f"{precision}{SUFFIX[file_format]}"
        if not path.exists():
            report = export_artifact(
                source, file_format, path, ExportOptions(precision=precision), images, calibration
            ).parity
            console.print(f"{file_format} {precision}: parity {'passed' if report and report.passed else 'FAILED'}")
        openers[name] = OpenSession(path) if "plain" in name else OpenFile(path, LoadOptions(device="cpu"))
    return openers


def drop_failing(openers: dict[str, Opener], images: ParityImages) -> dict[str, Opener]:
    """Return the openers that work on this machine, and print the others: torch.compile needs a C++ compiler."""
    working = {}
    for name, opener in openers.items():
        try:
            if isinstance(opener, OpenModule) and opener.compiled:
                compare_speed({name: opener}, [BatchShape(1, SIDE, SIDE)], images, seconds=0)
            working[name] = opener
        except RuntimeError as error:
            console.print(f"{name} is skipped: {str(error).splitlines()[0]}")
    return working


def describe_machine() -> dict[str, Any]:
    """Describe the machine that the figures depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    pairs = dict(part.split(":", 1) for part in reversed(lines) if ":" in part)
    cpu = {name.strip(): value.strip() for name, value in pairs.items()}
    present = cpu.get("flags", "").split()
    return {
        "processor": cpu.get("model name", platform.processor()),
        "family and model": f"{cpu.get('cpu family', '?')}, {cpu.get('model', '?')}",
        "flags": [flag for flag in FLAGS if flag in present],
        "cores": os.cpu_count(),
        "threads of torch": torch.get_num_threads(),
        "load before": round(os.getloadavg()[0], 2),  # other programs slow down PyTorch on all cores most
        "torch": torch.__version__,
    }


def speed_table(rows: list[Speed], batches: list[int]) -> Table:
    """Build a table with rate and ratio at each batch, worst cosine over the batches, load time and memory."""
    table = Table(
        title=f"ViT-S/16 at {SIDE}, images per second and the ratio to {rows[0].name}", title_justify="left", box=None
    )
    table.add_column("", no_wrap=True)
    for batch in batches:
        table.add_column(f"batch {batch}", justify="right", no_wrap=True)
        table.add_column("ratio", justify="right")
    for column in ("worst cosine", "load s", "MB"):
        table.add_column(column, justify="right")
    for name in dict.fromkeys(row.name for row in rows):
        own = {row.shape.batch: row for row in rows if row.name == name}
        columns = []
        for batch in batches:
            base = next(row for row in rows if row.shape.batch == batch)
            rate = own[batch].images_per_second
            columns += [f"{rate:.1f}", f"{rate / base.images_per_second:.2f}"]
        cosine = min(row.min_cosine for row in own.values())
        last = own[batches[-1]]
        memory = "" if last.memory_mb is None else f"{last.memory_mb:.0f}"
        table.add_row(name, *columns, f"{cosine:.6f}", f"{last.load_seconds:.2f}", memory)
    return table


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--source", type=Path, help="a run of ViT-S/16; default: random weights")
    parser.add_argument("--only", help=f"comma-separated subset of {', '.join([*MODULES, *EXPORTS])}")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    names = [*MODULES, *EXPORTS] if args.only is None else [name.strip() for name in args.only.split(",")]
    batches = [int(batch) for batch in args.batches.split(",")]
    images = load_parity_images(args.images)
    about = describe_machine()
    console.print("\n".join(f"{name}: {value}" for name, value in about.items()))
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(args.source or random_run(Path(folder)))
        openers = drop_failing(make_openers(source, Path(folder), names, args.images), images)
        shapes = [BatchShape(batch, SIDE, SIDE) for batch in batches]
        rows = compare_speed(openers, shapes, images, args.seconds, source.encoder)
    console.print(speed_table(rows, batches), f"cosines on {images.origin}, compared with the float32 encoder")
    if args.json:
        args.json.write_text(json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()
