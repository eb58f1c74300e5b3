"""The engine runner without a GPU: a fake library reads and writes raw addresses, as TensorRT does.

The fake computes with ONNX Runtime on the engine's own graph, so a wrong shape, dtype, order or address gives wrong
numbers. test_engine_variants checks that the real library has the same names.
"""

import ctypes
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from typer.testing import CliRunner

from gtsa_kit.cli import app
from gtsa_kit.cli.export import export
from gtsa_kit.export import load
from gtsa_kit.export.manifest import graph_path, read_manifest
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.runtime.tensorrt_runner import EngineRunner, rebuild_hint
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant, import_variant

pytestmark = pytest.mark.usefixtures("traces")

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")


class Context:
    """Fake execution context that reads and writes by address."""

    def __init__(self, engine: "Engine", config: object = None) -> None:
        self.engine, self.config = engine, config
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.active_optimization_profile = 0
        self.works = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "images"
        low, _, high = self.engine.profiles[self.active_optimization_profile]
        self.shape = shape
        return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.active_optimization_profile = index
        self.engine.switched.append(index)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, rows, columns = self.shape[0], self.shape[2] // 16, self.shape[3] // 16
        return (batch, 64) if name in ("embedding", "class_token") else (batch, 64, rows, columns)

    def execute_async_v3(self, stream: int) -> bool:
        if not self.works:
            return False
        images = read(self.addresses["images"], self.shape)
        values = self.engine.session.run(self.engine.names, {"images": images})
        for name, value in zip(self.engine.names, values, strict=True):
            assert value.shape == self.get_tensor_shape(name)
            write(self.addresses[name], value)
        return True


class Engine:
    """Fake deserialized engine."""

    def __init__(self, graph: Path, profiles: list) -> None:
        self.session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]
        self.profiles = profiles
        self.num_optimization_profiles = len(profiles)
        self.switched: list[int] = []
        self.contexts: list[Context] = []

    def get_tensor_profile_shape(self, name: str, index: int) -> list:
        return self.profiles[index]

    def create_execution_context(self, config: object = None) -> Context:
        self.contexts.append(Context(self, config))
        return self.contexts[-1]

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace(cuda_graph_strategy=None)


def read(address: int, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,)).reshape(shape).copy()


def write(address: int, value: np.ndarray) -> None:
    ctypes.memmove(address, np.ascontiguousarray(value).ctypes.data, value.nbytes)


def fake_variant(engine: Engine) -> TensorRTVariant:
    real = import_variant("tensorrt-rtx").library
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda content: engine)
    library = SimpleNamespace(
        Runtime=lambda logger: runtime,
        ILogger=real.ILogger,
        CudaGraphStrategy=real.CudaGraphStrategy,
        __version__=real.__version__,
    )
    return TensorRTVariant("tensorrt-rtx", library)


@pytest.fixture(scope="module")
def built(traces: None, tiny_run: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an engine of a graph whose trace is that of an engine of test_engines."""
    path = tmp_path_factory.mktemp("engine") / "encoder.engine"
    options = {"min_size": "32", "opt_size": "48x64", "max_size": "64", "batch": "1:2:4", "layers": "1,0"}
    export(tiny_run, format_name="trt", **options, class_token=True, precision="fp16", images=few, out=path)
    return path


def opened(path: Path, profiles: list | None = None) -> tuple[EngineRunner, Engine]:
    """Return a runner on the CPU, opened without the check for a GPU."""
    runner = EngineRunner.__new__(EngineRunner)
    runner.manifest = read_manifest(path)
    engine = Engine(graph_path(path), profiles or [[list(shape) for shape in runner.manifest.engine.profile]])
    runner._open(path, fake_variant(engine), torch.device("cpu"))
    return runner, engine


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 64, 32), (3, 32, 64), (4, 64, 64)])
def test_outputs_equal_those_of_the_graph(shape: tuple[int, int, int], built: Path) -> None:
    runner, _ = opened(built)
    images = np.random.default_rng(0).standard_normal((shape[0], 3, *shape[1:]), dtype=np.float32)
    graph_runner: Runner = load(graph_path(built), "cpu")
    actual, expected = runner(images), graph_runner(images)
    np.testing.assert_allclose(actual.embedding, expected.embedding, atol=5e-3)
    np.testing.assert_allclose(actual.feature_map, expected.feature_map, atol=5e-3)
    assert list(actual.layers) == [1, 0]
    for layer, values in actual.layers.items():
        np.testing.assert_allclose(values, expected.layers[layer], atol=5e-3)


def test_tensors_are_read_without_a_copy_and_outputs_stay_unchanged(built: Path) -> None:
    runner, engine = opened(built)
    images = torch.randn(2, 3, 32, 32)
    first = runner.run_tensors(images)
    assert engine.contexts[0].addresses["images"] == images.data_ptr()
    copies = [output.clone() for output in first]
    second = runner.run_tensors(images * 2)
    assert all(torch.equal(output, copy) for output, copy in zip(first, copies, strict=True))
    assert not torch.equal(first[0], second[0])
    strided = torch.randn(2, 32, 32, 3).permute(0, 3, 1, 2)  # not contiguous
    torch.testing.assert_close(runner.run_tensors(strided)[1], runner.run_tensors(strided.contiguous())[1])


def test_the_profile_that_holds_the_shape_is_selected(built: Path) -> None:
    low, mid, high = [1, 3, 32, 32], [2, 3, 48, 48], [4, 3, 64, 64]
    runner, engine = opened(built, [[low, low, mid], [low, mid, high]])
    for side in (32, 64, 64, 48):
        runner.run_tensors(torch.zeros(2, 3, side, side))
    assert engine.switched == [1, 0]


@pytest.mark.parametrize(
    ("batch", "word"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.float64), "must be float32, got float64"),
        (torch.zeros(1, 3, 40, 32), "multiples of 16, got 40; nearest"),
        (torch.zeros(1, 3, 80, 32), "height must be 32 to 64"),
        (torch.zeros(5, 3, 32, 32), "batch must be 1 to 4"),
        (torch.zeros(0, 3, 32, 32), "with a batch of at least 1"),
        (torch.zeros(1, 4, 32, 32), "3"),
        (torch.zeros(3, 32, 32), "must be"),
    ],
)
def test_errors_on_wrong_images_state_the_allowed_values(batch: torch.Tensor, word: str, built: Path) -> None:
    runner, _ = opened(built)
    with pytest.raises(ValueError, match=word):
        runner.run_tensors(batch)


def test_rejections_by_the_engine_are_reported(built: Path) -> None:
    runner, engine = opened(built, [[[1, 3, 32, 32], [1, 3, 32, 32], [1, 3, 48, 48]]])
    with pytest.raises(ValueError, match=r"does not accept .* build it for this machine"):
        runner.run_tensors(torch.zeros(1, 3, 64, 64))
    engine.contexts[0].works = False
    with pytest.raises(RuntimeError, match="the engine failed"):
        runner.run_tensors(torch.zeros(1, 3, 32, 32))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, where the engine opens")
def test_the_error_of_the_real_library_is_reported(built: Path) -> None:
    runner = EngineRunner.__new__(EngineRunner)
    runner.manifest = read_manifest(built)
    with pytest.raises(ValueError, match=r"tensorrt-rtx can't open .+; build it for this machine"):
        runner._open(built, import_variant("tensorrt-rtx"), torch.device("cpu"))


def test_the_hint_to_rebuild_is_a_valid_command(built: Path, tiny_run: Path, few: Path, tmp_path: Path) -> None:
    """Run the command of the hint; its engine has the same ranges, outputs and precision."""
    manifest = read_manifest(built)
    words = shlex.split(rebuild_hint(manifest).partition(": ")[2])
    assert words[:3] == ["gtsa", "export", "SOURCE"]
    again = tmp_path / "again.engine"
    done = CliRunner().invoke(
        app, ["export", str(tiny_run), *words[3:], "--out", str(again), "--images", str(few)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    rebuilt = read_manifest(again)
    assert (rebuilt.axes, rebuilt.outputs, rebuilt.precision) == (manifest.axes, manifest.outputs, manifest.precision)
