"""The choice of the TensorRT variant, what each can build, and the API names that exist in both."""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gtsa_kit.export.runtime import tensorrt_variant as variants
from gtsa_kit.export.runtime.other_gpus import OTHER_GPUS, check_elsewhere
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant, check_capabilities, choose_variant, import_variant
from gtsa_kit.export.tensorrt.build import BuildSettings, check_settings

EXPORT = Path(variants.__file__).parents[1]
RTX_ONLY = {
    *("ComputeCapability", "num_compute_capabilities", "set_compute_capability"),
    *("create_runtime_config", "CudaGraphStrategy", "cuda_graph_strategy"),
}
CLASSES = (
    *(
        "Builder",
        "IBuilderConfig",
        "INetworkDefinition",
        "IOptimizationProfile",
        "OnnxParser",
        "ParserError",
        "ITensor",
    ),
    *("Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "ITimingCache", "IHostMemory"),
)


def choice(
    monkeypatch: pytest.MonkeyPatch, gpu: str | None, installed: set[str], runtime: str = "auto"
) -> tuple[str, str]:
    monkeypatch.setattr(variants, "gpu_capability", lambda: gpu)
    monkeypatch.setattr(variants, "is_installed", lambda name: name in installed)
    monkeypatch.setattr(variants, "import_variant", lambda name: TensorRTVariant(name, None))
    variant, reason = choose_variant(runtime)
    return variant.name, reason


BOTH = {"tensorrt", "tensorrt-rtx"}


@pytest.mark.parametrize(
    ("gpu", "installed", "expected", "reason"),
    [
        ("9.0", BOTH, "tensorrt", "9.0"),
        (None, BOTH, "tensorrt-rtx", "no GPU"),
        ("8.9", {"tensorrt-rtx"}, "tensorrt-rtx", "tensorrt is not installed"),
        (None, {"tensorrt-rtx"}, "tensorrt-rtx", "no GPU"),
    ],
)
def test_auto_chooses_the_variant(
    gpu: str | None, installed: set[str], expected: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, given_reason = choice(monkeypatch, gpu, installed)
    assert name == expected
    assert reason in given_reason


def test_if_no_variant_can_build_the_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed in ((), ("tensorrt",)):
        with pytest.raises(ValueError, match=r"pip install 'gtsa-kit\[tensorrt-rtx\]'"):
            choice(monkeypatch, None, set(installed))
    with pytest.raises(ValueError, match="use --runtime tensorrt-rtx"):
        choice(monkeypatch, None, BOTH, "tensorrt")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="--runtime takes auto"):
        choose_variant("trtexec")


@pytest.mark.skipif(variants.is_installed("tensorrt"), reason="tensorrt is installed here")
def test_a_missing_variant_is_named() -> None:
    with pytest.raises(ValueError, match=r"tensorrt is not installed; pip install 'gtsa-kit\[tensorrt\]'"):
        import_variant("tensorrt")


@pytest.mark.parametrize(
    ("requested", "precision", "dynamic", "word"),
    [
        (("9.0",), "fp16", True, "Hopper.*--runtime tensorrt on a machine with such a GPU"),
        (("8.9", "10.0"), "fp16", True, "10.0"),
        (("5.0",), "fp16", True, "does not build for compute capability 5.0"),
        (("7.5", "8.9"), "fp16", False, "and other GPUs in one file"),
        (("7.5",), "fp32", False, "--precision fp16 --size 224"),
        (("7.5",), "bf16", False, "--precision fp16"),
        (("7.5",), "int8", False, "--precision fp16"),
        (("7.5",), "fp16", True, "--size 224"),
        (("8.6", "12.0"), "fp8", True, "8.6 has no fp8"),
    ],
)
def test_unsupported_gpus_and_precisions_are_rejected_with_a_hint(
    requested: tuple[str, ...], precision: str, dynamic: bool, word: str
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    with pytest.raises(ValueError, match=word):
        check_capabilities(import_variant("tensorrt-rtx"), requested, precision, dynamic)


@pytest.mark.parametrize(
    ("capability", "words"),
    [
        (
            "8.7",
            r"8\.7 \(Jetson Orin\).*on the Jetson itself.*JetPack 7\.2\.2.*--runtime tensorrt.*JetPack 6 .*trtexec",
        ),
        ("11.0", r"11\.0 \(Jetson Thor\).*on the Jetson itself.*--runtime tensorrt"),
    ],
)
def test_an_engine_for_a_jetson_is_built_there(capability: str, words: str) -> None:
    for own in (None, "8.9"):
        with pytest.raises(ValueError, match=words):
            check_elsewhere(("8.9", capability), own)
    check_elsewhere((capability,), capability)  # on the Jetson itself
    check_elsewhere(("8.9", "9.0"), None)  # left to the check of the variant


def test_the_variant_names_the_gpus_that_it_can_not_build_for() -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    rtx = import_variant("tensorrt-rtx")
    assert not set(OTHER_GPUS).intersection(rtx.capabilities)
    for capability, (name, way) in OTHER_GPUS.items():
        with pytest.raises(ValueError, match="does not build for") as rejected:
            check_capabilities(rtx, (capability,), "fp16", True)
        assert name in str(rejected.value)
        assert str(rejected.value).endswith(way)


def test_tensorrt_builds_for_the_gpu_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "gpu_capability", lambda: "9.0")
    full = TensorRTVariant("tensorrt", None)
    assert check_capabilities(full, (), "fp8", True) == ("9.0",)
    with pytest.raises(ValueError, match=r"this machine's GPU, 9.0, not for 8.9; omit --gpu"):
        check_capabilities(full, ("8.9",), "fp16", True)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (BuildSettings(level=6), "between 0 and 5"),
        (BuildSettings(workspace=0), "above 0"),
        (BuildSettings(timing_cache=Path("x")), "omit --timing-cache"),
    ],
)
def test_invalid_and_unsupported_settings_are_rejected(settings: BuildSettings, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        check_settings(TensorRTVariant("tensorrt-rtx", None), settings)


def names_called() -> set[str]:
    """Return every attribute that the modules which call TensorRT read, of any object."""
    names = set()
    building = ("tensorrt/build", "tensorrt/network", "tensorrt/problems")
    for module in (*building, "runtime/tensorrt_runner", "runtime/tensorrt_variant"):
        tree = ast.parse((EXPORT / f"{module}.py").read_text())
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names


def names_of(library: object) -> set[str]:
    """Return the names that the bindings define: those of the module and of its classes."""
    names = set(dir(library))
    for name in CLASSES:
        names |= set(dir(getattr(library, name, object)))
    return names


# Names of the API that those modules use in both variants.
API = {
    *("Builder", "Runtime", "OnnxParser", "ILogger", "IProgressMonitor", "BuilderFlag", "MemoryPoolType"),
    *("NetworkDefinitionCreationFlag", "create_network", "create_builder_config", "create_optimization_profile"),
    *("build_serialized_network", "set_shape", "add_optimization_profile", "progress_monitor", "set_flag"),
    *("clear_flag", "set_memory_pool_limit", "builder_optimization_level", "create_timing_cache", "set_timing_cache"),
    *("serialize", "parse", "num_errors", "get_error", "node", "desc", "num_inputs", "num_outputs", "get_input"),
    *("get_output", "deserialize_cuda_engine", "create_execution_context", "set_input_shape", "set_tensor_address"),
    *("get_tensor_shape", "execute_async_v3", "num_optimization_profiles", "get_tensor_profile_shape"),
    *("active_optimization_profile", "set_optimization_profile_async"),
}


def test_the_modules_use_every_listed_name() -> None:
    assert names_called() >= API | RTX_ONLY


def test_every_name_exists_in_tensorrt_rtx() -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    assert names_of(library) >= API | RTX_ONLY
    assert {"STRONGLY_TYPED"} <= set(library.NetworkDefinitionCreationFlag.__members__)
    assert {"TF32"} <= set(library.BuilderFlag.__members__)
    assert {"WORKSPACE"} <= set(library.MemoryPoolType.__members__)


# The bindings of TensorRT load these three libraries and look up these functions on import.
STUBS = {
    "libnvinfer.so.11": "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL "
    "getBuilderPluginRegistry getInferLibVersion getLogger getPluginRegistry",
    "libnvinfer_plugin.so.11": "initLibNvInferPlugins",
    "libnvonnxparser.so.11": "createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getNvOnnxParserVersion "
    "isSupportedByTensorRT",
}
PRINT_NAMES = """
import ctypes, json, sys
for path in sys.argv[1:]:
    ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
sys.path.insert(0, {tests!r})
import tensorrt_bindings.tensorrt as library
from parity.test_engine_variants import names_of
flags = [*library.NetworkDefinitionCreationFlag.__members__, *library.BuilderFlag.__members__,
         *library.MemoryPoolType.__members__]
print(json.dumps([sorted(names_of(library)), flags]))
"""


def test_every_name_exists_in_tensorrt(tmp_path: Path) -> None:
    """Check the bindings of TensorRT, which can be installed everywhere and load with stub libraries."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt's bindings have no wheel for this machine")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to build stub libraries for the bindings of tensorrt")
    for name, functions in STUBS.items():
        source = tmp_path / f"{name}.c"
        source.write_text("".join(f"void* {function}() {{ return 0; }}\n" for function in functions.split()))
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(tmp_path / name), str(source)]
        subprocess.run(command, check=True, capture_output=True)
    script = PRINT_NAMES.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", script, *(str(tmp_path / name) for name in STUBS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names, flags = json.loads(done.stdout)
    assert set(names) >= API
    assert {"STRONGLY_TYPED", "TF32", "WORKSPACE"} <= set(flags)
