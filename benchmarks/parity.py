"""Parity of every format and precision with the float32 encoder, for any weights: the tables of README and channels.md.

Run: .venv/bin/python benchmarks/parity.py WEIGHTS --images FOLDER [--calibrate FOLDER] [--only onnx/int8,openvino/int8]
     [--input float32] [--layers] [--json FILE]

Each file is written to a temporary folder and measured by the gate of `gtsa export`. `--layers` also prints the layers
whose quantization alone changes a patch most, for int8 and fp8. Engines of TensorRT are built from the ONNX graph of
the same precision, so that its row is theirs.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gtsa_kit.export.formats.quant_layers import QUANT_TYPES, activation_scales, layer_sensitivity
from gtsa_kit.export.formats.quantize import Calibration, calibration_batches
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.pipeline import export_artifact, read_calibration
from gtsa_kit.export.source import Source, open_source
from gtsa_kit.export.spec import QUANTIZED, SUFFIX, SUPPORTED_PRECISIONS, ExportOptions

COLUMNS = ("max_abs", "mean_abs", "min_cosine", "neighbors")
console = Console(highlight=False, width=150)


def worst(manifest: Manifest) -> dict[str, Any]:
    """Return the worst value of each measure over all cases and outputs."""
    assert manifest.parity
    differences = manifest.parity.differences
    return {
        "max_abs": max(d.max_abs for d in differences),
        "mean_abs": max(d.mean_abs for d in differences),
        "min_cosine": min(d.min_cosine for d in differences),
        "mean_cosine": min(d.mean_cosine for d in differences),
        "neighbors": min(d.neighbors for d in differences if d.neighbors is not None),
        "passed": manifest.parity.passed,
    }


def measure(
    source: Source, name: str, images: ParityImages, calibration: Calibration, input_type: str
) -> dict[str, Any]:
    """Export one format and precision, and measure it."""
    file_format, precision = name.split("/")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"encoder{SUFFIX[file_format]}"
        options = ExportOptions(precision=precision, input=input_type)  # type: ignore[arg-type]
        manifest = export_artifact(source, file_format, path, options, images, calibration)
        size = sum(file.stat().st_size for file in Path(folder).iterdir() if file.suffix != ".json")
    row = {"name": name, **worst(manifest), "mib": size / 2**20, "seconds": time.perf_counter() - start}
    row |= {"float_layers": manifest.target.get("float_layers", "")}
    columns = f"{row['max_abs']:.2g}", f"{row['mean_abs']:.2g}", f"{row['min_cosine']:.7f}", f"{row['neighbors']:.3f}"
    console.print(
        name, *columns, "passed" if row["passed"] else "FAILED", f"{row['seconds']:.0f} s", row["float_layers"]
    )
    return row


def sensitive_layers(source: Source, precision: str, calibration: Calibration) -> list[tuple[str, float]]:
    """Return the layers whose quantization alone lowers the cosine of a patch most."""
    options = ExportOptions(precision=precision).in_patches(source.encoder.architecture.patch)  # type: ignore[arg-type]
    graph, quant_type = ExportGraph(source.encoder, options, attention="explicit"), QUANT_TYPES[precision]
    batches = list(calibration_batches(calibration, source.encoder.preprocessing, options))
    scales = activation_scales(graph, batches, quant_type)
    return layer_sensitivity(graph, batches[0], scales, quant_type)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--calibrate", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--input", default="float32")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    source = open_source(arguments.weights)
    preprocessing = source.encoder.preprocessing
    images = load_parity_images(arguments.images, preprocessing)
    calibration = read_calibration(arguments.calibrate or arguments.images, preprocessing)
    names = [f"{name}/{p}" for name, precisions in SUPPORTED_PRECISIONS.items() if name != "trt" for p in precisions]
    names = arguments.only.split(",") if arguments.only else names
    rows = [measure(source, name, images, calibration, arguments.input) for name in names]
    table = Table("", *COLUMNS, "", "MiB", box=None)
    for row in rows:
        columns = (
            f"{row['max_abs']:.2g}",
            f"{row['mean_abs']:.2g}",
            f"{row['min_cosine']:.7f}",
            f"{row['neighbors']:.3f}",
        )
        table.add_row(row["name"], *columns, "passed" if row["passed"] else "FAILED", f"{row['mib']:.0f}")
    console.print(table)
    layers = {}
    for precision in QUANTIZED:
        if arguments.layers and any(name.endswith(precision) for name in names):
            layers[precision] = sensitive_layers(source, precision, calibration)
            console.print(precision, "hurts most in", ", ".join(f"{n} {c:.5f}" for n, c in layers[precision][:8]))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "layers": layers}, indent=2))


if __name__ == "__main__":
    main()
