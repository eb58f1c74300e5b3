"""Real TensorRT engines, built without a GPU: every precision, dynamic and fixed sizes, a small encoder and ViT-S."""

import _thread
import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers.signals import WAIT_SECONDS, ctrl_c_raises

from gtsa_kit.cli.export import export
from gtsa_kit.cli.verify import verify
from gtsa_kit.export.manifest import Manifest, graph_path, read_manifest
from gtsa_kit.export.runtime.engine_header import read_header
from gtsa_kit.export.runtime.profile import Profile
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant, import_variant
from gtsa_kit.export.spec import PRECISIONS, Range
from gtsa_kit.export.tensorrt import build as build_module
from gtsa_kit.export.tensorrt.build import BuildSettings, build_engine
from gtsa_kit.export.tensorrt.source_graph import read_graph_file
from gtsa_kit.files import sha256_of

pytestmark = pytest.mark.usefixtures("traces")

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")

SMALL = {"max_size": "64", "batch": "1:2:4"}
DYNAMIC = SMALL | {"min_size": "32", "opt_size": "48x64"}
LAYERS = {"layers": "1,0", "class_token": True}
FIXED = {"size": "32x48", "batch": "2"}


def words(capsys: pytest.CaptureFixture[str]) -> str:
    """Return standard error with all whitespace collapsed, which the width of the terminal changes."""
    return " ".join(capsys.readouterr().err.split())


def build(source: Path, out: Path, images: Path, **options: object) -> tuple[Path, Manifest]:
    """Run the export command in this process, and return the engine and its manifest."""
    engine = out / "encoder.engine"
    quantized = {"calibrate": images} if options.get("precision") in ("int8", "fp8") else {}
    export(source, format_name="trt", runtime="tensorrt-rtx", out=engine, images=images, **options, **quantized)
    return engine, read_manifest(engine)


# tf32 and fp8 are built with one kind of shape only, since a trace takes seconds.
BUILDS = [(precision, "fixed, uint8") for precision in PRECISIONS]
BUILDS += [(precision, "dynamic, layers") for precision in ("fp32", "fp16", "bf16", "int8")]


@pytest.mark.parametrize(("precision", "shape"), BUILDS)
def test_the_manifest_describes_the_engine(
    precision: str, shape: str, tiny_run: Path, few: Path, tmp_path: Path, matrix: Callable[[str, Manifest], None]
) -> None:
    options = DYNAMIC | LAYERS if "dynamic" in shape else FIXED | {"input_type": "uint8"}
    engine, manifest = build(tiny_run, tmp_path, few, precision=precision, **options)
    record = manifest.engine
    assert record is not None
    assert (manifest.format, manifest.precision) == ("trt", precision)
    header = read_header(engine)
    assert (header.variant, header.version) == ("tensorrt-rtx", import_variant("tensorrt-rtx").version)
    assert (record.variant, record.version, record.capabilities) == (
        header.variant,
        header.version,
        header.capabilities,
    )
    assert ("8.0" in header.capabilities) == (precision != "fp8")
    assert manifest.content_sha256 == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert record.graph.sha256 == sha256_of(graph_path(engine))
    assert record.graph.parity.passed
    assert record.graph.parity == read_manifest(graph_path(engine)).parity
    assert {d.output for d in record.graph.parity.differences} == {spec.name for spec in manifest.outputs}
    if torch.cuda.is_available():
        assert record.parity == "run" or record.parity.startswith("not run: this GPU")
    else:
        assert (record.parity, manifest.parity) == ("not run: no GPU", None)
    if "dynamic" in shape:
        assert record.profile == ((1, 3, 32, 32), (2, 3, 48, 64), (4, 3, 64, 64))
        assert (manifest.range_of("batch"), manifest.range_of("height")) == (Range(1, 4), Range(32, 64, 16))
        assert [spec.name for spec in manifest.outputs] == [
            "embedding",
            "feature_map",
            "feature_map_1",
            "feature_map_0",
            "class_token",
        ]
    else:
        assert record.profile == ()
        assert (manifest.inputs[0].shape, manifest.inputs[0].dtype) == ((2, 32, 48, 3), "uint8")
    assert {p.name for p in tmp_path.iterdir()} == {
        *("encoder.engine", "encoder.engine.json", "encoder.engine.log"),
        *("encoder.engine.onnx", "encoder.engine.onnx.json"),
    }
    assert "INFO" in (tmp_path / "encoder.engine.log").read_text()
    matrix(f"of an engine, {shape}", read_manifest(graph_path(engine)))


@pytest.mark.parametrize(
    ("gpu", "options", "expected"),
    [
        ("8.9", FIXED, ("8.9",)),
        ("12.0,8.6", DYNAMIC | LAYERS, ("8.6", "12.0")),
        ("7.5", FIXED, ("7.5",)),
        (None, FIXED, ("8.0", "8.6", "8.9", "12.0", "12.1", "later")),
    ],
)
def test_one_file_is_built_for_the_requested_gpus(
    gpu: str | None, options: dict, expected: tuple[str, ...], tiny_run: Path, few: Path, tmp_path: Path
) -> None:
    engine, manifest = build(tiny_run, tmp_path, few, gpu=gpu, **options)
    assert read_header(engine).capabilities == manifest.engine.capabilities == expected


def test_a_large_profile_builds_in_a_dry_run(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parity gate at the maximum of the profile would take minutes; a dry run has none."""
    profile = {"max_size": "448", "batch": "1:8:32", "gpu": "8.6,8.9,12.0"}
    export(tiny_run, format_name="trt", runtime="tensorrt-rtx", precision="fp16", dry_run=True, **profile)
    assert "builds; nothing was kept" in words(capsys)


def test_vit_small_is_built_and_checked(
    small_run: Path,
    few: Path,
    tmp_path: Path,
    matrix: Callable[[str, Manifest], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Export ViT-S through the parity gate of its graph, build the engine, and check it without a GPU."""
    engine, _ = build(small_run, tmp_path, few, precision="int8", layers="2,5,8,11", **FIXED)
    matrix("of an engine", read_manifest(graph_path(engine)))
    verify(engine, against=small_run, images=few, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert report["not_checked"].startswith("no GPU") or report["engine_parity"]
    size = engine.stat().st_size / 1e6
    assert 22 < size < 50, "weights are stored in the precision of the graph"


@pytest.fixture(scope="module")
def graph(tiny_run: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small float32 graph exported by gtsa-kit, with dynamic size."""
    path = tmp_path_factory.mktemp("graph") / "encoder.onnx"
    export(tiny_run, format_name="onnx", out=path, images=few, max_size="64", batch="1:4")
    return path


def test_a_graph_of_gtsa_kit_is_built_as_it_is(graph: Path, few: Path, tmp_path: Path) -> None:
    engine, manifest = build(graph, tmp_path, few, precision="tf32")
    assert graph_path(engine).read_bytes() == graph.read_bytes()
    assert (manifest.precision, manifest.engine.graph.parity) == ("tf32", read_manifest(graph).parity)
    assert manifest.range_of("height") == Range(16, 64, 16)
    # for another precision, a new graph is exported from the weights inside
    engine, manifest = build(graph, tmp_path / "half", few, precision="fp16", **FIXED)
    assert (manifest.precision, read_manifest(graph_path(engine)).precision) == ("fp16", "fp16")


def test_the_ranges_must_lie_within_those_of_the_graph(graph: Path, few: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch must be 1 to 4"):
        build(graph, tmp_path, few, precision="fp32", batch="1:2:8")
    with pytest.raises(ValueError, match=r"--opt-size: the optimal value 96 is not within 16 to 64"):
        build(graph, tmp_path, few, precision="fp32", opt_size="96")


def build_with(graph: Path, tmp_path: Path, on_step: Callable[[str, int, int], None], **settings: object) -> object:
    variant = import_variant("tensorrt-rtx")
    profile = Profile((1, 3, 16, 16), (2, 3, 64, 64), (4, 3, 64, 64))
    model = read_graph_file(graph).model
    return build_engine(variant, model, graph.name, profile, BuildSettings(**settings), tmp_path / "log", on_step)


def test_progress_is_reported(graph: Path, tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    build_with(graph, tmp_path, lambda *step: reported.append(step))
    assert len({phase for phase, _, _ in reported}) > 1
    for _, done, total in reported:
        assert 0 <= done <= total
    counts = [done for _, done, _ in reported]
    assert counts == sorted(counts), "progress never decreases"
    assert reported[-1][1] == reported[-1][2], "progress reaches its end"


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[threading.Event]:
    """Events that end a build, one for each build of the test."""
    make_monitor, stops = build_module._make_monitor, []

    def capture(variant: TensorRTVariant, on_step: Callable[[str, int, int], None], stop: threading.Event) -> object:
        stops.append(stop)
        return make_monitor(variant, on_step, stop)

    monkeypatch.setattr(build_module, "_make_monitor", capture)
    return stops


def test_ctrl_c_stops_a_build(graph: Path, tmp_path: Path, stops: list[threading.Event]) -> None:
    """Interrupt while the builder's native code runs; the builder stops at its next step."""
    steps = []

    def on_step(phase: str, done: int, total: int) -> None:
        steps.append(phase)
        if len(steps) == 1:
            _thread.interrupt_main()
            assert stops[0].wait(WAIT_SECONDS), "the main thread did not handle the interrupt"

    with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
        build_with(graph, tmp_path, on_step)
    assert len(steps) < 10


def test_an_interrupt_while_a_build_starts_stops_it(
    graph: Path, tmp_path: Path, stops: list[threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, started = [], threading.Event()

    class InterruptedPool(ThreadPoolExecutor):
        def submit(self, *args: object) -> object:
            super().submit(*args)
            assert started.wait(WAIT_SECONDS)
            raise KeyboardInterrupt

    def on_step(phase: str, done: int, total: int) -> None:
        steps.append(phase)
        started.set()
        if len(steps) == 1:
            assert stops[0].wait(WAIT_SECONDS), "the interrupt does not reach the builder"

    monkeypatch.setattr(build_module, "ThreadPoolExecutor", InterruptedPool)
    with pytest.raises(KeyboardInterrupt):
        build_with(graph, tmp_path, on_step)
    assert len(steps) < 10


def test_a_workspace_that_is_too_small_is_named(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="workspace") as rejected:
        build_with(graph, tmp_path, lambda *_: None, workspace=1e-6)
    assert "raise --workspace" in str(rejected.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_engines_pass_the_parity_gate_on_a_gpu(precision: str, small_run: Path, few: Path, tmp_path: Path) -> None:
    calibrate = {"calibrate": few} if precision == "int8" else {}
    try:
        out = tmp_path / "e.engine"
        export(small_run, format_name="trt", precision=precision, out=out, images=few, **DYNAMIC, **calibrate)
    except ValueError as error:
        pytest.skip(f"no variant of TensorRT builds for this GPU: {error}")
    manifest = read_manifest(tmp_path / "e.engine")
    assert manifest.engine.parity == "run", manifest.engine.parity
    assert manifest.parity.passed
    if precision == "fp16":
        assert min(d.min_cosine for d in manifest.parity.differences) >= 0.999
