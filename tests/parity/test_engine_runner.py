"""The runner of engines without a device: a stand-in library reads and writes raw addresses, as TensorRT does.

What computes behind the stand-in is ONNX Runtime on the engine's own graph, so a wrong shape, type, order or address
gives wrong numbers. The library's own classes are checked for the same names in test_engine_variants.
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
from gtsa_kit.export.runtime.tensorrt_runner import EngineRunner, rebuild
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant, import_variant

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")


class Context:
    """Executes by address."""

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
        return (batch, 64) if name == "embedding" else (batch, 64, rows, columns)

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
    """What a plan becomes."""

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


def stand_in(engine: Engine) -> TensorRTVariant:
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
def built(tiny_run: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "encoder.engine"
    export(tiny_run, form="trt", max_size="96", batch="1:2:4", layers="0", precision="fp16", images=few, out=path)
    return path


def opened(path: Path, profiles: list | None = None) -> tuple[EngineRunner, Engine]:
    """A runner on the CPU, past what asks for a GPU."""
    runner = EngineRunner.__new__(EngineRunner)
    runner.manifest = read_manifest(path)
    engine = Engine(graph_path(path), profiles or [[list(shape) for shape in runner.manifest.engine.profile]])
    runner._open(path, stand_in(engine), torch.device("cpu"))
    return runner, engine


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 96, 32), (3, 32, 96), (4, 96, 96)])
def test_it_gives_what_the_graph_gives(shape: tuple[int, int, int], built: Path) -> None:
    runner, _ = opened(built)
    images = np.random.default_rng(0).standard_normal((shape[0], 3, *shape[1:]), dtype=np.float32)
    expected: Runner = load(graph_path(built), "cpu")
    got, want = runner(images), expected(images)
    np.testing.assert_allclose(got.embedding, want.embedding, atol=5e-3)
    np.testing.assert_allclose(got.feature_map, want.feature_map, atol=5e-3)
    assert list(got.layers) == [0]
    np.testing.assert_allclose(got.layers[0], want.layers[0], atol=5e-3)


def test_torch_tensors_go_in_without_a_copy_and_results_stay(built: Path) -> None:
    runner, engine = opened(built)
    images = torch.randn(2, 3, 32, 32)
    first = runner.run_tensors(images)
    assert engine.contexts[0].addresses["images"] == images.data_ptr()
    kept = [output.clone() for output in first]
    second = runner.run_tensors(images * 2)
    assert all(torch.equal(output, copy) for output, copy in zip(first, kept, strict=True))
    assert not torch.equal(first[0], second[0])
    spread = torch.randn(2, 32, 32, 3).permute(0, 3, 1, 2)  # not contiguous
    torch.testing.assert_close(runner.run_tensors(spread)[1], runner.run_tensors(spread.contiguous())[1])


def test_the_profile_that_holds_the_shape_is_taken(built: Path) -> None:
    low, mid, high = [1, 3, 16, 16], [2, 3, 32, 32], [4, 3, 96, 96]
    runner, engine = opened(built, [[low, low, mid], [low, mid, high]])
    for side in (16, 96, 96, 32):
        runner.run_tensors(torch.zeros(2, 3, side, side))
    assert engine.switched == [1, 0]


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.float64), "must be float32, got float64"),
        (torch.zeros(1, 3, 40, 32), "multiples of 16, got 40; nearest"),
        (torch.zeros(1, 3, 112, 32), "height must be 16 to 96"),
        (torch.zeros(5, 3, 32, 32), "batch must be 1 to 4"),
        (torch.zeros(0, 3, 32, 32), "with at least one"),
        (torch.zeros(1, 4, 32, 32), "3"),
        (torch.zeros(3, 32, 32), "must be"),
    ],
)
def test_wrong_images_say_what_is_allowed(images: torch.Tensor, word: str, built: Path) -> None:
    runner, _ = opened(built)
    with pytest.raises(ValueError, match=word):
        runner.run_tensors(images)


def test_what_the_engine_itself_refuses_is_said(built: Path) -> None:
    runner, engine = opened(built, [[[1, 3, 16, 16], [1, 3, 16, 16], [1, 3, 32, 32]]])
    with pytest.raises(ValueError, match=r"does not take .* build it for this machine"):
        runner.run_tensors(torch.zeros(1, 3, 96, 96))
    engine.contexts[0].works = False
    with pytest.raises(RuntimeError, match="the engine failed"):
        runner.run_tensors(torch.zeros(1, 3, 32, 32))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, where it opens")
def test_the_real_library_says_why_it_does_not_open_a_plan(built: Path) -> None:
    runner = EngineRunner.__new__(EngineRunner)
    runner.manifest = read_manifest(built)
    with pytest.raises(ValueError, match=r"can't be opened by tensorrt-rtx: .+; build it for this machine"):
        runner._open(built, import_variant("tensorrt-rtx"), torch.device("cpu"))


def test_the_command_that_rebuilds_is_one(built: Path, tiny_run: Path, few: Path, tmp_path: Path) -> None:
    """What an error tells people to run makes an engine of the same ranges, outputs and precision."""
    manifest = read_manifest(built)
    words = shlex.split(rebuild(manifest).partition(": ")[2])
    assert words[:3] == ["gtsa", "export", "SOURCE"]
    again = tmp_path / "again.engine"
    done = CliRunner().invoke(
        app, ["export", str(tiny_run), *words[3:], "--out", str(again), "--images", str(few)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    made = read_manifest(again)
    assert (made.axes, made.outputs, made.precision) == (manifest.axes, manifest.outputs, manifest.precision)
