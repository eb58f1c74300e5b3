"""Layouts of the images of graphs: read from the shape, requested where the shape allows both, and used everywhere."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from gtsa_kit.cli.export import export
from gtsa_kit.cli.verify import verify
from gtsa_kit.embedding.preprocess import to_input
from gtsa_kit.export import Runner
from gtsa_kit.export.layout import LAYOUTS, Layout, arrange, choose_layout
from gtsa_kit.export.manifest import Manifest, read_manifest
from gtsa_kit.export.manifest_records import TensorSpec
from gtsa_kit.export.triton.models import preprocess_graph, preprocess_manifest

pytestmark = pytest.mark.usefixtures("traces")

Shape = tuple[int | str | None, ...]
CHANNELS = {"nchw": 1, "nhwc": 3}


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (("b", 3, "h", "w"), "nchw"),
        (("b", "h", "w", 3), "nhwc"),
        ((1, 3, 224, 224), "nchw"),
        ((1, 224, 224, 3), "nhwc"),
        (("batch_size", "num_channels", "height", "width"), "nchw"),
        (("batch_size", "height", "width", "num_channels"), "nhwc"),
        (("N", "C", "H", "W"), "nchw"),
        (("b", "rows", "cols", "d"), "nhwc"),
        (("?", "?", 224, 224), "nchw"),
        (("?", 224, 224, "?"), "nhwc"),
        (("b", 3, "14*rows14", "14*cols14"), "nchw"),
    ],
)
def test_the_shape_tells_the_layout(shape: Shape, layout: Layout) -> None:
    assert choose_layout(shape, None, "f") == choose_layout(shape, layout, "f") == layout
    other = "nhwc" if layout == "nchw" else "nchw"
    with pytest.raises(ValueError, match=f"is {layout}, not {other}; omit --layout"):
        choose_layout(shape, other, "f")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [("?", "?", "?", "?"), (1, 3, 224, 3), ("a_dim_0", "a_dim_1", "a_dim_2", "a_dim_3")])
def test_an_ambiguous_shape_needs_the_option(shape: Shape) -> None:
    with pytest.raises(ValueError, match="does not tell where the colors are; add --layout"):
        choose_layout(shape, None, "f")
    assert [choose_layout(shape, layout, "f") for layout in LAYOUTS] == list(LAYOUTS)


@pytest.mark.parametrize("shape", [(1, 1, 28, 28), ("b", 4, "h", "w"), (1, 224, 224, 4)])
def test_other_numbers_of_channels_are_rejected(shape: Shape) -> None:
    with pytest.raises(ValueError, match="does not take a batch of images"):
        choose_layout(shape, None, "f")


def save_graph(path: Path, dtype: str, layout: Layout, shape: Shape) -> Path:
    """Save a graph of another tool that embeds patches of 16 pixels."""
    kind = TensorProto.UINT8 if dtype == "uint8" else TensorProto.FLOAT
    nodes, name = [], "images"
    if dtype == "uint8":
        nodes, name = [helper.make_node("Cast", [name], ["floats"], to=TensorProto.FLOAT)], "floats"
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [name], ["planes"], perm=[0, 3, 1, 2]))
        name = "planes"
    nodes.append(helper.make_node("Conv", [name, "kernel"], ["out"], strides=[16, 16]))
    kernel = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", 8, "p", "q"])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [3, "num_channels"])
def test_engines_have_the_layout_of_the_graph(dtype: str, layout: Layout, channels: int | str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    shape = [channels if length == 3 else length for length in arrange(layout, "b", "height", "width")]
    graph, engine = save_graph(tmp_path / "g.onnx", dtype, layout, tuple(shape)), tmp_path / "g.engine"
    export(graph, format_name="trt", batch="1:2:4", max_size="64x96")
    manifest = read_manifest(engine)
    assert manifest.layout == manifest.inputs[0].layout == layout
    assert manifest.engine.profile == (
        arrange(layout, 1, 16, 16),
        arrange(layout, 2, 64, 96),
        arrange(layout, 4, 64, 96),
    )
    assert (manifest.range_of("height").max, manifest.range_of("width").max) == (64, 96)
    verify(engine)


def test_the_option_decides_for_an_ambiguous_graph(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    graph = save_graph(tmp_path / "g.onnx", "float32", "nhwc", (None,) * 4)
    with pytest.raises(ValueError, match="add --layout"):
        export(graph, format_name="trt", dry_run=True)
    with pytest.raises(ValueError, match="--layout takes nchw or nhwc"):
        export(graph, format_name="trt", layout="hwc", dry_run=True)
    export(graph, format_name="trt", layout="nhwc", batch="2", size="32")
    manifest = read_manifest(tmp_path / "g.engine")
    assert (manifest.inputs[0].shape[3], manifest.layout) == (3, "nhwc")
    verify(tmp_path / "g.engine")


def test_the_option_is_for_graphs_of_other_tools(tiny_run: Path) -> None:
    with pytest.raises(ValueError, match="--layout is for the ONNX file of another tool"):
        export(tiny_run, format_name="trt", layout="nchw", dry_run=True)


def test_an_engine_never_lies_without_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    graph = save_graph(tmp_path / "g.onnx", "float32", "nchw", ("b", 3, "h", "w"))
    export(graph, format_name="trt", batch="1:2", max_size="64")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".log"}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    for step in ("write_manifest", "parse_header", "build_engine", "check_engine_parity"):
        with monkeypatch.context() as patched:
            target = "cli.support.export_engine" if step == "check_engine_parity" else "export.tensorrt.engine"
            patched.setattr(f"gtsa_kit.{target}.{step}", fail)
            with pytest.raises(OSError, match="disk full"):
                export(graph, format_name="trt", batch="1:4", max_size="96", force=True)
            assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".log"} == before


class Recorder(Runner):
    provider = "recorder"

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        raise NotImplementedError


def with_input(manifest: Manifest, dtype: str, layout: Layout) -> Manifest:
    shape = arrange(layout, "batch", "height", "width")
    spec = TensorSpec(name="images", dtype=dtype, shape=shape, layout=layout, samples=dtype == "uint8")
    return manifest.model_copy(update={"inputs": (spec,)})


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtype_and_layout_of_inputs_are_independent(dtype: str, layout: Layout, tiny_onnx: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    runner = Recorder(with_input(read_manifest(tiny_onnx), dtype, layout))
    preprocessing = runner.manifest.preprocessing
    normalized = (pixels / 255 - preprocessing["mean"]) / preprocessing["std"]
    expected = np.moveaxis(pixels if dtype == "uint8" else normalized, 2, CHANNELS[layout] - 1)
    for prepared in (
        runner.prepare(Image.fromarray(pixels), (32, 48)),
        to_input(pixels, runner.preprocessing, runner.manifest.input_format),
    ):
        assert prepared.dtype == dtype
        np.testing.assert_allclose(prepared, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="images must be"):
        runner(np.moveaxis(prepared, CHANNELS[layout] - 1, 2 - (CHANNELS[layout] - 1))[None])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_preprocessing_for_triton_has_the_layout_of_the_encoder(layout: Layout, tiny_onnx: Path) -> None:
    manifest = with_input(read_manifest(tiny_onnx), "float32", layout)
    runner = Recorder(manifest)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(
        preprocess_graph(preprocess_manifest(manifest, "uint8")), providers=["CPUExecutionProvider"]
    )
    (actual,) = session.run(None, {"images": pixels[None]})
    np.testing.assert_allclose(actual[0], runner.prepare(Image.fromarray(pixels), (32, 48)), rtol=0, atol=1e-6)
