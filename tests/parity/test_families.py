"""Parity of exported graphs of every family of ViTs, with any batch and size, and engines of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.families import FAMILIES, HEADS, WIDTH, timm_vit

from gtsa_kit.cli.export import export
from gtsa_kit.cli.support.parity_table import parity_table
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.manifest import Manifest, graph_path, read_manifest
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.pipeline import export_artifact, read_calibration
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions, Range
from gtsa_kit.models.architecture import RESAMPLINGS
from gtsa_kit.models.checkpoint_import.timm_metadata import describe_model
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.weights import save_encoder

pytestmark = pytest.mark.usefixtures("traces")

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "DINOv2": ("DINOv2", {"img_size": 98}),  # the gate has an image of this size
    "DINOv2 with registers": ("DINOv2 with registers", {}),
    "DINOv3": ("DINOv3", {}),
    "EVA02": ("EVA02", {}),
    "SigLIP": ("SigLIP", {}),
    "CLIP": ("CLIP", {}),
    "DeiT3": ("DeiT3", {"img_size": 96}),
    # Fewer graphs, which take seconds each: one of patches of 8, an oblong grid, and norms of queries and keys; and one
    # of everything that low precision could harm.
    "patches of 8": ("patches of 8", {"img_size": (24, 40), "qk_norm": True}),
    "everything": (
        "DINOv3 with SwiGLU",
        {"class_token": False, "use_abs_pos_emb": True, "img_size": 80, "scale_mlp": True, "scale_attn_inner": True},
    ),
}
"""Family of `FAMILIES` and arguments beyond its own, by model."""
DEPTH = 1
"""Blocks: one has every operator of a family, and each adds seconds to a trace; two are in the matrix."""
RESAMPLED = {"DINOv2": RESAMPLINGS[2], "DeiT3": RESAMPLINGS[1]}
"""Models with another way to resample positions than timm's."""
ENGINES = [("DINOv2 with registers", "fp32"), ("DINOv3", "fp32"), ("everything", "fp16"), ("everything", "int8")]
"""Engines, whose ONNX graphs pass the gate too."""
CASES = [
    *((model, "onnx", "fp32") for model in MODELS if (model, "fp32") not in ENGINES),
    *((model, "torchscript", "fp32") for model in MODELS),
    *((model, "pt2", "fp32") for model in ("DINOv2", "DINOv3", "SigLIP", "CLIP")),
    *((model, "openvino", "fp32") for model in ("DINOv2", "everything", "EVA02", "CLIP")),
    *(("everything", "onnx", precision) for precision in ("bf16", "fp8")),
    *(("everything", "openvino", precision) for precision in ("bf16", "int8")),
    ("everything", "pt2", "bf16"),
    ("everything", "torchscript", "fp16"),
    ("patches of 8", "onnx", "fp16"),
]


@pytest.fixture(scope="module")
def pictures(few: Path) -> ParityImages:
    return load_parity_images(few)


@pytest.fixture(scope="module")
def ranges(few: Path) -> Calibration:
    return read_calibration(few)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs with random weights, by model."""
    runs: dict[str, Path] = {}

    def get(model: str) -> Path:
        if model not in runs:
            (family, arguments), runs[model] = MODELS[model], tmp_path_factory.mktemp("run")
            name, own = FAMILIES[family]
            kwargs = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, **own, **arguments}
            described = describe_model(name, timm_vit(family, depth=DEPTH, **arguments), kwargs)
            architecture = replace(described, resampling=RESAMPLED.get(model, RESAMPLINGS[0]))
            weights = Encoder(architecture).vit.state_dict()
            varied = {key: value + 0.1 * torch.randn_like(value) for key, value in weights.items()}
            save_encoder(runs[model], varied, EncoderSpec(architecture, Preprocessing()), {})
        return runs[model]

    return get


@pytest.mark.parametrize(("model", "file_format", "precision"), CASES)
def test_every_family_passes_the_gate(
    model: str,
    file_format: str,
    precision: str,
    run_of: Callable[[str], Path],
    pictures: ParityImages,
    ranges: Calibration,
    tmp_path: Path,
    matrix: Callable[[str, Manifest], None],
) -> None:
    if file_format == "openvino":
        pytest.importorskip("openvino")
    source = open_source(run_of(model))
    path, options = tmp_path / f"encoder{SUFFIX[file_format]}", ExportOptions(precision=precision)
    manifest = export_artifact(source, file_format, path, options, pictures, ranges)
    matrix("any size", manifest)
    report, patch = manifest.parity, source.encoder.architecture.patch
    assert report.passed, parity_table(report)
    assert (manifest.range_of("batch"), manifest.range_of("height")) == (Range(1, None), Range(patch, None, patch))
    shapes = {(d.height, d.width) for d in report.differences}
    assert (patch, patch) in shapes
    assert len(shapes) > 3
    if model in RESAMPLED:  # its own grid, which is not resampled, is compared too
        assert tuple(patch * side for side in source.encoder.grid) in shapes
        assert manifest.architecture["resampling"] == RESAMPLED[model]


@pytest.mark.parametrize("file_format", ["torchscript", "pt2"])
def test_rotary_positions_of_a_fixed_size_are_constants(
    file_format: str, run_of: Callable[[str], Path], pictures: ParityImages, tmp_path: Path
) -> None:
    options = ExportOptions(height=Range(48, 48), width=Range(80, 80), layers=(0,), input="uint8")
    path = tmp_path / f"encoder{SUFFIX[file_format]}"
    report = export_artifact(open_source(run_of("DINOv3")), file_format, path, options, pictures).parity
    assert report.passed, parity_table(report)
    assert {(d.height, d.width) for d in report.differences} == {(48, 80)}


@pytest.mark.parametrize(("model", "precision"), ENGINES)
def test_engines_of_families(
    model: str,
    precision: str,
    run_of: Callable[[str], Path],
    few: Path,
    tmp_path: Path,
    matrix: Callable[[str, Manifest], None],
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    engine, patch = tmp_path / "encoder.engine", open_source(run_of(model)).encoder.architecture.patch
    sizes = {"min_size": str(patch), "opt_size": f"{3 * patch}x{4 * patch}", "max_size": str(5 * patch)}
    quantized = {"calibrate": few} if precision == "int8" else {}
    options = {"batch": "1:2:3", "precision": precision, **sizes, **quantized}
    export(run_of(model), format_name="trt", runtime="tensorrt-rtx", out=engine, images=few, **options)
    manifest = read_manifest(engine)
    matrix("of an engine, dynamic", read_manifest(graph_path(engine)))
    assert manifest.engine.graph.parity.passed
    profile = ((1, 3, patch, patch), (2, 3, 3 * patch, 4 * patch), (3, 3, 5 * patch, 5 * patch))
    assert manifest.engine.profile == profile
    assert manifest.range_of("height") == Range(patch, 5 * patch, patch)
