"""Every format in every precision, dynamic, fixed and bounded, against the float32 encoder on images."""

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
from gtsa_kit.export.spec import SUFFIX, SUPPORTED_PRECISIONS, TOLERANCES, ExportOptions

# Engines, which are built for a GPU, have tests of their own.
OFFERS = [
    (form, precision) for form, precisions in SUPPORTED_PRECISIONS.items() if form != "trt" for precision in precisions
]
# Every pair at every size and batch; the graphs that are made otherwise, for every format and every ONNX precision.
CASES = [("any size", *offer) for offer in OFFERS]
CASES += [(graph, *offer) for graph in list(GRAPHS)[1:] for offer in OFFERS if "onnx" in offer or "fp32" in offer]


@pytest.mark.parametrize(("graph", "form", "precision"), CASES)
def test_every_graph_holds_parity(
    form: str, precision: str, graph: str, made: Callable[..., Path], matrix: Callable[[str, Manifest], None]
) -> None:
    manifest = read_manifest(made(form, precision=precision, **GRAPHS[graph]))
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
    elif graph == "fixed, layers":
        assert shapes == {(b, 96, 160) for b in (1, 2, 7)}
    else:
        assert {(64, 48), (256, 320)} <= {(h, w) for _, h, w in shapes}
        assert {b for b, _, _ in shapes} == {1, 2, 4}


@pytest.mark.parametrize(
    ("form", "precision"), [("onnx", "fp32"), ("torchscript", "bf16"), ("pt2", "fp32"), ("openvino", "bf16")]
)
def test_vit_small_holds_parity(
    form: str,
    precision: str,
    small_run: Path,
    tmp_path: Path,
    scenes: ParityImages,
    calibration: Calibration,
    matrix: Callable[[str, Manifest], None],
) -> None:
    """The full ViT-S/16 path of each format, with room to spare under the bound."""
    if form == "openvino":
        pytest.importorskip("openvino")
    source, path = open_source(small_run), tmp_path / f"encoder{SUFFIX[form]}"
    manifest = export_artifact(source, form, path, ExportOptions(precision=precision), scenes, calibration)
    matrix("any size", manifest)
    Console(width=140).print(parity_table(manifest.parity))
    assert manifest.parity.passed
    tolerance = TOLERANCES[precision]
    assert max(d.max_abs for d in manifest.parity.differences) < tolerance.max_abs / 3
    assert max(d.mean_abs for d in manifest.parity.differences) < tolerance.mean_abs / 3
