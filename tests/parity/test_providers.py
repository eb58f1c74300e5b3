"""ONNX Runtime's providers: their options, fallback on request alone, and errors with hints."""

import io
import shutil
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from gtsa_kit.cli import app
from gtsa_kit.cli.support.opening import open_runner
from gtsa_kit.export import load
from gtsa_kit.export.benchmark.compare import OpenFile
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.manifest import Manifest, manifest_path
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.runtime import onnx_gpu_sessions, onnx_sessions
from gtsa_kit.export.runtime.providers import (
    FallbackWarning,
    ProviderRequest,
    ProviderUnavailable,
    install_hint,
    provider_options,
)
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.models.encoder import Encoder

REAL = onnxruntime.InferenceSession
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="errors of missing GPUs need a machine without one")


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return Encoder("vit_test")


@pytest.fixture
def batch() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 3, 48, 32)).astype(np.float32)


class FakeSession:
    """Session that reports the given providers and computes on the CPU."""

    sessions: list["FakeSession"]
    reported_providers: Callable[[list[str]], list[str]]
    unassigned: tuple[str, ...] = ()

    def __init__(self, model: Any, settings: Any, providers: Any = (), enable_fallback: int = 1) -> None:
        self.options = dict(one if isinstance(one, tuple) else (one, {}) for one in providers)
        self.devices = getattr(settings, "devices", [])
        on_cpu = list(self.options) == ["CPUExecutionProvider"]
        assert on_cpu or enable_fallback == 0, "ONNX Runtime must not choose for the user"
        self.real = REAL(model, providers=["CPUExecutionProvider"])
        self.names = [*self.options, *(ep for ep, _ in self.devices)]
        type(self).sessions.append(self)

    def get_providers(self) -> list[str]:
        return type(self).reported_providers([*self.names, *(["CPUExecutionProvider"] if self.devices else [])])

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [types.SimpleNamespace(op_type=name) for name in type(self).unassigned]
        part = types.SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: nodes)
        return [part]

    def run(self, names: Any, feed: Any) -> Any:
        return self.real.run(names, feed)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """Simulate a machine with a GPU."""
    for module in ("device", "onnx_gpu_sessions"):
        monkeypatch.setattr(f"gtsa_kit.export.runtime.{module}.count_gpus", lambda: 3)
    everything = ["NvTensorRTRTXExecutionProvider", "TensorrtExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*everything, "CPUExecutionProvider"])
    kind = type("Fake", (FakeSession,), {"sessions": [], "reported_providers": staticmethod(lambda names: names)})
    monkeypatch.setattr(onnxruntime, "InferenceSession", kind)
    return kind


def manifest_for(tiny: Encoder, **options: Any) -> Manifest:
    return build_manifest(tiny, "onnx", ExportOptions(**options), {}, "0" * 64)


def shapes(options: dict[str, str], prefix: str) -> list[tuple[int, ...]]:
    """Return the minimum, optimal and maximum shape in the options."""
    texts = [options[f"{prefix}_profile_{end}_shapes"] for end in ("min", "opt", "max")]
    assert all(text.startswith("images:") for text in texts)
    return [tuple(int(part) for part in text.removeprefix("images:").split("x")) for text in texts]


@pytest.mark.parametrize(("provider", "prefix"), [("tensorrt", "trt"), ("tensorrt-rtx", "nv")])
def test_dynamic_inputs_have_profiles_that_the_graph_takes(tiny: Encoder, provider: str, prefix: str) -> None:
    for options in (
        {},
        {"input": "uint8"},
        {"batch": Range(2, 4), "height": Range(64, 96), "width": Range(32, 640)},
        {"batch": Range(1, 1)},
        {"height": Range(64, 64), "width": Range(32, 32)},
    ):
        manifest = manifest_for(tiny, **options)
        minimum, optimal, maximum = shapes(provider_options(provider, manifest, 0, None), prefix)
        for low, middle, high, axis in zip(minimum, optimal, maximum, manifest.input_axes, strict=True):
            assert low <= middle <= high
            if axis == "3":
                assert (low, high) == (3, 3)
                continue
            assert low == manifest.range_of(axis).min
            assert high == (manifest.range_of(axis).max or high)
            for length in (low, middle, high):
                manifest.check_axis(axis, length)
    fixed = manifest_for(tiny, batch=Range(2, 2), height=Range(64, 64), width=Range(32, 32))
    assert set(provider_options(provider, fixed, 1, None)) == {"device_id"}
    assert provider_options(provider, fixed, 1, None)["device_id"] == "1"
    assert provider_options("cuda", manifest_for(tiny), 2, None) == {"device_id": "2", "use_tf32": "0"}


def test_tensorrt_options_allow_the_types_of_the_graph(tiny: Encoder) -> None:
    for precision in ("fp16", "bf16", "int8"):
        options = provider_options("tensorrt", manifest_for(tiny, precision=precision), 0, None)
        assert {name for name in options if name.endswith("_enable")} == {f"trt_{precision}_enable"}
    assert not [name for name in provider_options("tensorrt", manifest_for(tiny), 0, None) if "enable" in name]
    rtx = provider_options("tensorrt-rtx", manifest_for(tiny, precision="fp16"), 0, None)
    assert all(name == "device_id" or "_profile_" in name for name in rtx)
    with pytest.raises(ValueError, match=r"no fp8; build an engine"):
        provider_options("tensorrt", manifest_for(tiny, precision="fp8"), 0, None)


def test_the_provider_library_contains_the_options(tiny: Encoder, tmp_path: Path) -> None:
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    if not library.exists():
        pytest.skip("this build of ONNX Runtime has no TensorRT provider to look into")
    content = library.read_bytes()
    for precision in ("fp16", "bf16", "int8"):
        for name in provider_options("tensorrt", manifest_for(tiny, precision=precision), 0, tmp_path):
            assert b"\0" + name.encode() + b"\0" in content, name


@NO_GPU
@pytest.mark.parametrize(
    ("provider", "message"),
    [
        ("cuda", "cuda provider: there is no NVIDIA GPU here.*; run this on a machine with one, or add --fallback"),
        ("tensorrt", "tensorrt provider: there is no NVIDIA GPU here"),
        ("tensorrt-rtx", "does not have it; pip install onnxruntime onnxruntime-ep-nv-tensorrt-rtx"),
    ],
)
def test_missing_providers_are_named(tiny_onnx: Path, provider: str, message: str) -> None:
    with pytest.raises(ProviderUnavailable, match=message):
        load(tiny_onnx, provider=provider)


@NO_GPU
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_silent_fallback_to_the_cpu_is_an_error(
    tiny_onnx: Path, provider: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_gpu_sessions, "unavailable_reason", lambda provider: "")
    with pytest.raises(ProviderUnavailable, match=rf"{provider} provider: lib\S+ can't be loaded; .*install"):
        load(tiny_onnx, provider=provider)
    assert capfd.readouterr() == ("", "")


@NO_GPU
def test_fallback_gives_equal_features_and_a_warning(tiny_onnx: Path, batch: np.ndarray) -> None:
    expected = load(tiny_onnx, "cpu")(batch)
    for provider, steps in (("cuda", 1), ("tensorrt", 2), ("tensorrt-rtx", 2)):
        with pytest.warns(FallbackWarning, match="provider: .*; falling back to") as caught:
            runner = load(tiny_onnx, provider=provider, fallback=True)
        assert f"{provider} provider" in str(caught[0].message)
        assert len(caught) == steps
        assert "CPUExecutionProvider" in runner.provider
        np.testing.assert_array_equal(runner(batch).feature_map, expected.feature_map)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "CPU" in load(tiny_onnx, provider="cpu", fallback=True).provider
        assert "CPU" in load(tiny_onnx).provider


@NO_GPU
def test_commands_print_fallbacks(tiny_onnx: Path, images: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=300)
    open_runner(tiny_onnx, LoadOptions(provider="tensorrt", fallback=True), console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.rpartition(" ")[2] for line in output.splitlines()] == ["cuda", "cpu"]
    arguments = ["embed", images, "--model", tiny_onnx, "--out", tmp_path / "out", "--provider", "cuda"]
    assert isinstance(CliRunner().invoke(app, [str(part) for part in arguments]).exception, ProviderUnavailable)
    assert not (tmp_path / "out" / "embeddings.parquet").exists()
    with pytest.raises(ProviderUnavailable):
        OpenFile(tiny_onnx, LoadOptions(provider="cuda"))()


def test_the_requested_provider_runs(fake: type[FakeSession], tiny_onnx: Path, batch: np.ndarray) -> None:
    for provider, name in (
        ("cuda", "CUDAExecutionProvider"),
        ("tensorrt", "TensorrtExecutionProvider"),
        ("tensorrt-rtx", "NvTensorRTRTXExecutionProvider"),
        ("auto", "CUDAExecutionProvider"),
    ):
        runner = load(tiny_onnx, provider=provider)
        assert runner.provider == f"ONNX Runtime, {name}"
        assert list(fake.sessions[-1].options) == [name]
        assert runner(batch).embedding.shape == (3, 64)
    load(tiny_onnx, "cuda:1", "tensorrt", fallback=True)
    assert list(fake.sessions[-1].options) == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert {options["device_id"] for options in fake.sessions[-1].options.values()} == {"1"}


def test_shapes_beyond_the_profile_are_rejected(fake: type[FakeSession], tiny_onnx: Path) -> None:
    runner = load(tiny_onnx, provider="tensorrt")
    _, _, (most, _, high, wide) = shapes(fake.sessions[-1].options["TensorrtExecutionProvider"], "trt")
    for shape, axis in (
        ((1, 3, high + 16, 32), "height"),
        ((1, 3, 32, wide + 16), "width"),
        ((most + 1, 3, 32, 32), ""),
    ):
        with pytest.raises(ValueError, match=f"{axis or 'batch'} must be"):
            runner(np.zeros(shape, np.float32))
    assert load(tiny_onnx, provider="cuda")(np.zeros((1, 3, high + 16, 32), np.float32)).embedding.shape == (1, 64)


def test_auto_warns_of_an_idle_gpu(fake: type[FakeSession], tiny_onnx: Path) -> None:
    fake.reported_providers = staticmethod(lambda names: ["CPUExecutionProvider"])
    with pytest.warns(FallbackWarning, match="falling back to cpu"):
        assert "CPU" in load(tiny_onnx).provider
    for request in ({"device": "cuda"}, {"provider": "cuda"}, {"provider": "tensorrt-rtx"}):
        with pytest.raises(ProviderUnavailable, match="add --fallback"):
            load(tiny_onnx, **request)


def test_unassigned_costly_operators_need_fallback(fake: type[FakeSession], tiny_onnx: Path) -> None:
    fake.unassigned = ("MatMul", "Shape", "MatMul", "Softmax")
    with pytest.raises(ProviderUnavailable, match="does not support 2 MatMul, 1 Softmax"):
        load(tiny_onnx, provider="tensorrt")
    assert load(tiny_onnx, provider="tensorrt", fallback=True).provider.endswith("2 MatMul, 1 Softmax elsewhere")
    fake.unassigned = ("Shape", "Gather")
    assert load(tiny_onnx, provider="tensorrt").provider.endswith("TensorrtExecutionProvider")


def test_onnx_runtime_reports_the_assignment_of_operators(tiny_onnx: Path) -> None:
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = REAL(str(tiny_onnx), settings, providers=["CPUExecutionProvider"])
    counted = onnx_gpu_sessions.unassigned_ops(session, "CUDAExecutionProvider")
    operators = [node.op_type for node in onnx.load(tiny_onnx).graph.node]
    assert counted["Softmax"] == operators.count("Softmax") == 2
    assert counted["Conv"] == operators.count("Conv") == 1
    assert not onnx_gpu_sessions.unassigned_ops(session, "CPUExecutionProvider")


def test_tensorrt_rtx_as_a_plugin(
    fake: type[FakeSession], tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = types.ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    plugin.get_ep_name, plugin.get_library_path = (lambda: "Rtx"), (lambda: "rtx.so")  # type: ignore[attr-defined]
    plugin.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    registered = []

    class Settings(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
            self.devices = [(one.ep_name, options) for one in devices]

    devices = [types.SimpleNamespace(ep_name=name) for name in ("CPUExecutionProvider", "Rtx", "Rtx")]
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda *what: registered.append(what))
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices)
    monkeypatch.setattr(onnxruntime, "SessionOptions", Settings)
    onnx_sessions._register_plugin.cache_clear()
    for _ in range(2):
        assert load(tiny_onnx, "cuda:1", "tensorrt-rtx", tmp_path).provider == "ONNX Runtime, Rtx"
    assert registered == [("Rtx", "rtx.so")]
    (name, options), *others = fake.sessions[-1].devices
    assert (name, others) == ("Rtx", [])
    assert Path(options["nv_runtime_cache_path"]).parent == tmp_path
    assert "device_id" not in options
    with pytest.raises(ProviderUnavailable, match="no GPU 2"):
        load(tiny_onnx, "cuda:2", "tensorrt-rtx")
    onnx_sessions._register_plugin.cache_clear()


def test_two_encoders_have_separate_cache_folders(fake: type[FakeSession], tiny_onnx: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / tiny_onnx.name
    other.parent.mkdir()
    model = onnx.load(tiny_onnx)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    weight.raw_data = bytes(len(weight.raw_data))
    other.write_bytes(model.SerializeToString())
    shutil.copy(manifest_path(tiny_onnx), manifest_path(other))
    kept = tmp_path / "new" / "engines"
    folders = []
    for path in (tiny_onnx, other, tiny_onnx):
        load(path, provider="tensorrt", engine_cache=kept)
        options = fake.sessions[-1].options["TensorrtExecutionProvider"]
        assert (options["trt_engine_cache_enable"], options["trt_timing_cache_enable"]) == ("1", "1")
        assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"]
        folders.append(Path(options["trt_engine_cache_path"]))
    assert folders[0] == folders[2] != folders[1]
    assert all(folder.is_dir() and folder.parent == kept and not any(folder.iterdir()) for folder in folders)


@pytest.mark.parametrize("location", ["a file", "below a file", "/proc/engines"])
def test_a_read_only_cache_is_rejected(fake: type[FakeSession], tiny_onnx: Path, tmp_path: Path, location: str) -> None:
    (tmp_path / "file").touch()
    folder = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "x"}.get(location, Path(location))
    with pytest.raises(ValueError, match=r"engines can't be kept in .*; name a writable folder"):
        load(tiny_onnx, provider="tensorrt", engine_cache=folder, fallback=True)
    assert not fake.sessions


def test_contradicting_options_are_rejected(tiny_onnx: Path, tiny_run: Path) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    for provider, device, target in (("cpu", "cuda", gpu), ("cuda", "cpu", cpu), ("tensorrt", "cpu", cpu)):
        with pytest.raises(ValueError, match="does not run on --device"):
            ProviderRequest(provider).resolve(device, target)
    assert ProviderRequest("cpu").resolve("auto", gpu) == ("cpu",)
    assert ProviderRequest().resolve("cuda", gpu) == ("cuda",)
    assert ProviderRequest(fallback=True).resolve("cuda", gpu) == ("cuda", "cpu")
    with pytest.raises(ValueError, match="takes auto, cpu, cuda, tensorrt, tensorrt-rtx, got 'rocm'"):
        load(tiny_onnx, provider="rocm")
    for provider in ("auto", "cpu", "cuda"):
        with pytest.raises(ValueError, match="only engines are cached"):
            load(tiny_onnx, provider=provider, engine_cache="cache")
    with pytest.raises(ValueError, match="not run by ONNX Runtime; omit --provider"):
        load(tiny_run, provider="cpu")


def test_install_hints_name_the_version() -> None:
    assert "tensorrt==10.*" in install_hint("libnvinfer.so.10")
    assert "tensorrt==11.*" in install_hint("libnvonnxparser.so.11")
    assert "tensorrt==10.*" in install_hint("nvinfer_10.dll")
    assert "driver" in install_hint("libcuda.so.1")
    assert "cuda,cudnn" in install_hint("libcudnn.so.9")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt-rtx"])
def test_parity_on_a_gpu(provider: str, tiny_onnx: Path, tiny_run: Path, scenes: ParityImages, tmp_path: Path) -> None:
    kept = None if provider == "cuda" else tmp_path / "engines"
    try:
        runner = load(tiny_onnx, provider=provider, engine_cache=kept)
    except ProviderUnavailable as error:
        pytest.skip(str(error))
    assert check_parity(open_source(tiny_run).encoder, runner, scenes).passed
    assert kept is None or any(path.is_file() for path in kept.rglob("*"))
