"""Sizes that another tool's graph takes: its own patch size, and axes that are dynamic by name only."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gtsa_kit.cli.export import export
from gtsa_kit.export.formats.onnx_graph import patch_steps
from gtsa_kit.export.manifest import read_manifest
from gtsa_kit.export.spec import ANY_BATCH, ANY_SIZE, Range
from gtsa_kit.export.tensorrt.source_graph import SourceGraph, read_graph_file

pytestmark = pytest.mark.usefixtures("traces")


def save_graph(
    path: Path, kernel: int, stride: int, height: int | str = "h", width: int | str = "w", positions: int = 0
) -> Path:
    """Save a graph that embeds patches, and adds position embeddings of a fixed number if there are any."""
    weights = np.random.default_rng(0).standard_normal((8, 3, kernel, kernel)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["images", "kernel"], ["map"], strides=[stride, stride])]
    constants = [numpy_helper.from_array(weights, "kernel")]
    if positions:
        constants.append(numpy_helper.from_array(np.array([0, 8, -1]), "shape"))
        constants.append(numpy_helper.from_array(np.ones((1, 8, positions), np.float32), "positions"))
        nodes.append(helper.make_node("Reshape", ["map", "shape"], ["tokens"]))
        nodes.append(helper.make_node("Add", ["tokens", "positions"], ["out"]))
    else:
        nodes.append(helper.make_node("Relu", ["map"], ["out"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, height, width])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def opened(tmp_path: Path, *args: object, **options: object) -> SourceGraph:
    return read_graph_file(save_graph(tmp_path / "g.onnx", *args, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kernel", "stride", "height", "width", "steps"),
    [
        (14, 14, "h", "w", (14, 14)),
        (8, 8, "h", "w", (8, 8)),
        (32, 32, "h", "w", (32, 32)),
        (7, 4, "h", "w", (1, 1)),  # kernels that overlap cut no patches
        (7, 4, "14*rows", "28*columns", (14, 28)),
        (7, 4, "s0 * 14", "w", (14, 1)),
        (16, 16, "height_2", "s77", (16, 16)),
    ],
)
def test_the_step_is_that_of_the_graph(
    kernel: int, stride: int, height: str, width: str, steps: tuple[int, int], tmp_path: Path
) -> None:
    graph = opened(tmp_path, kernel, stride, height, width)
    assert tuple(patch_steps(graph.model, graph.lengths).values()) == steps
    ranges = graph.restrict(ANY_BATCH, ANY_SIZE, ANY_SIZE)
    assert (ranges.height, ranges.width) == (Range(steps[0], None, steps[0]), Range(steps[1], None, steps[1]))


def test_ranges_that_the_graph_can_not_take_are_refused_by_name(tmp_path: Path) -> None:
    graph = opened(tmp_path, 14, 14)
    accepted = graph.restrict(Range(1, 4), Range(14, 518), Range(518, 518))
    assert (accepted.height, accepted.width) == (Range(14, 518, 14), Range(518, 518, 14))
    for low, high, nearest in ((512, 512, 518), (16, 518, 14), (14, 224 + 1, 224)):
        with pytest.raises(
            ValueError, match=rf"height must be at least 14 and multiples of 14.*the nearest is {nearest}"
        ):
            graph.restrict(ANY_BATCH, Range(low, high), ANY_SIZE)
        with pytest.raises(ValueError, match="width must be"):
            graph.restrict(ANY_BATCH, ANY_SIZE, Range(low, high))
    fixed = opened(tmp_path, 14, 14, 28, 42)
    assert fixed.restrict(ANY_BATCH, ANY_SIZE, Range(1, 42)).width == Range(42, 42)
    with pytest.raises(ValueError, match=r"g\.onnx has a fixed width of 42, got 28; omit --size"):
        fixed.restrict(ANY_BATCH, ANY_SIZE, Range(28, 28))


def test_patches_of_14_pixels_are_built(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    graph = save_graph(tmp_path / "g.onnx", 14, 14)
    export(graph, format_name="trt", batch="1:2", min_size="14", max_size="70")
    manifest = read_manifest(tmp_path / "g.engine")
    assert manifest.engine.profile == ((1, 3, 14, 14), (2, 3, 70, 70), (2, 3, 70, 70))
    assert manifest.axes["height"].multiple_of == 14
    export(graph, format_name="trt", batch="1", size="518", dry_run=True)
    before = sorted(tmp_path.iterdir())
    for options in ({"size": "512"}, {"max_size": "70", "opt_size": "60"}, {"min_size": "16"}):
        with pytest.raises(ValueError, match="the nearest is"):
            export(graph, format_name="trt", out=tmp_path / "new.engine", **options)
    assert sorted(tmp_path.iterdir()) == before


def test_axes_that_are_dynamic_by_name_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such files come from exporters that name all axes; their position embeddings are for 14 x 14 patches."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    graph = save_graph(tmp_path / "g.onnx", 16, 16, positions=196)
    export(graph, format_name="trt", batch="1:2")
    assert "building for 224 x 224 alone" in " ".join(capsys.readouterr().err.split())
    assert read_manifest(tmp_path / "g.engine").engine.profile == ((1, 3, 224, 224), (2, 3, 224, 224), (2, 3, 224, 224))
    for options in ({"size": "96"}, {"max_size": "448"}):
        with pytest.raises(ValueError, match="dynamic by name, does not run at"):
            export(graph, format_name="trt", dry_run=True, **options)


def test_sizes_of_an_encoder_are_checked_before_anything_is_written(tiny_run: Path, tmp_path: Path) -> None:
    for name, options in (
        ("height", {"size": "100x96"}),
        ("width", {"min_size": "16x20"}),
        ("height", {"max_size": "90"}),
    ):
        with pytest.raises(ValueError, match=rf"multiples of 16, got a {name} of \d+; the nearest is \d+"):
            export(tiny_run, format_name="onnx", out=tmp_path, **options)
    assert not list(tmp_path.iterdir())
