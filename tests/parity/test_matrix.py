"""Parity of every format and precision, dynamic, fixed and bounded, with the float32 encoder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.graphs import GRAPHS
from rich.console import Console

from gtsa_kit.cli.support.parity_table import parity_table
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.manifest import Manifest, read_manifest
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, SUPPORTED_PRECISIONS, ExportOptions, Range
from gtsa_kit.export.tolerances import TOLERANCES

# Engines are built for a GPU and have tests of their own.
SUPPORTED = [
    (file_format, precision)
    for file_format, precisions in SUPPORTED_PRECISIONS.items()
    if file_format != "trt"
    for precision in precisions
]
HALF = ("fp16", "bf16")
# Dynamic graphs of every format and precision; other graphs of every format, and of ONNX in every precision. Half
# precision has traces of its own, which take seconds with a dynamic size: its graph of uint8 input has a fixed one.
CASES = [("any size", *pair) for pair in SUPPORTED]
CASES += [
    (graph, file_format, precision)
    for graph in ("fixed, layers", "bounded, uint8")
    for file_format, precision in SUPPORTED
    if (file_format == "onnx" or precision == "fp32") and not (graph.startswith("bounded") and precision in HALF)
]
CASES += [("fixed, uint8", "onnx", precision) for precision in HALF]


@pytest.mark.parametrize(("graph", "file_format", "precision"), CASES)
def test_every_graph_passes_the_gate(
    file_format: str, precision: str, graph: str, made: Callable[..., Path], matrix: Callable[[str, Manifest], None]
) -> None:
    manifest = read_manifest(made(file_format, precision=precision, **GRAPHS[graph]))
    matrix(graph, manifest)
    report = manifest.parity
    assert report.passed, parity_table(report)
    assert {d.output for d in report.differences} == set(ExportOptions(**GRAPHS[graph]).outputs)
    shapes = {(d.batch, d.height, d.width) for d in report.differences}
    if graph == "any size":
        assert {b for b, _, _ in shapes} == {1, 2, 7}
        assert {(224, 224), (96, 96), (16, 16)} <= {(h, w) for _, h, w in shapes}
        assert any(h > w for _, h, w in shapes)
        assert any(h < w for _, h, w in shapes)
    elif graph.startswith("fixed"):
        assert shapes == {(b, 96, 160) for b in (1, 2, 7)}
    else:
        assert {(64, 48), (256, 320)} <= {(h, w) for _, h, w in shapes}
        assert {b for b, _, _ in shapes} == {1, 2, 4}


@pytest.mark.parametrize(
    ("file_format", "precision"), [("onnx", "fp32"), ("torchscript", "bf16"), ("pt2", "fp32"), ("openvino", "bf16")]
)
def test_vit_small_passes_the_gate(
    file_format: str,
    precision: str,
    small_run: Path,
    tmp_path: Path,
    scenes: ParityImages,
    calibration: Calibration,
    matrix: Callable[[str, Manifest], None],
) -> None:
    """Export a ViT-S/16 in each format, with differences far below the bounds; any size is that of smaller graphs."""
    if file_format == "openvino":
        pytest.importorskip("openvino")
    source, path = open_source(small_run), tmp_path / f"encoder{SUFFIX[file_format]}"
    size = {} if file_format == "torchscript" else {"height": Range(224, 224), "width": Range(224, 224)}
    options = ExportOptions(precision=precision, batch=Range(2, 2), **size)
    manifest = export_artifact(source, file_format, path, options, scenes, calibration)
    matrix("224 pixels" if size else "any size", manifest)
    Console(width=140).print(parity_table(manifest.parity))
    assert manifest.parity.passed
    tolerance = TOLERANCES[precision]
    assert max(d.max_abs for d in manifest.parity.differences) < tolerance.max_abs / 3
    assert max(d.mean_abs for d in manifest.parity.differences) < tolerance.mean_abs / 3
