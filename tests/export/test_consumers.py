"""Programs of examples/ that read exported files: built, run and compared with the Python runner on the same image."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.graphs import ANY_SIZE, BOUNDED
from helpers.paths import ROOT
from PIL import Image

from gtsa_kit.export import load
from gtsa_kit.export.manifest import read_manifest

EXAMPLES = ROOT / "examples"
CPP = EXAMPLES / "cpp_consumer"
TORCH = Path(torch.__file__).parent
HEIGHT, WIDTH = 64, 80
INPUTS = {"float32": ANY_SIZE, "uint8": BOUNDED}


@pytest.fixture(scope="module")
def artifact(made: Callable[..., Path]) -> Callable[[str, str], Path]:
    """Return a function that exports in a format with an input type, once the program that reads the file is there."""
    return lambda file_format, kind: made(file_format, **INPUTS[kind])


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.ppm"
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path.write_bytes(b"P6\n# a remark, as GIMP writes\n%d %d\n255\n" % (WIDTH, HEIGHT) + pixels.tobytes())
    return path


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program as docs/consumers.md does, without optimization."""
    program = tmp_path_factory.mktemp("build") / "torchscript"
    include, lib = TORCH / "include", TORCH / "lib"
    command = ["g++", "-std=c++20", "-O0", "-isystem", include, CPP / "torchscript.cpp", "-o", program]
    return build(program, [*command, "-L", lib, "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{lib}"])


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = os.environ.get("ONNXRUNTIME_DIR")
    if not root:
        pytest.skip("ONNXRUNTIME_DIR names no unpacked release of ONNX Runtime (include/ and lib/)")
    program, lib = tmp_path_factory.mktemp("build") / "onnx", Path(root) / "lib"
    command = ["g++", "-std=c++17", "-O0", "-isystem", Path(root) / "include", CPP / "onnx.cpp", "-o", program]
    return build(program, [*command, "-L", lib, "-lonnxruntime", f"-Wl,-rpath,{lib}"])


@pytest.fixture(scope="module")
def node_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy onnx.mjs beside a node_modules folder, where its import finds the package."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    paths = [Path(path) for path in os.environ.get("NODE_PATH", "").split(os.pathsep) if path]
    paths += [folder / "node_modules" for folder in (EXAMPLES, ROOT)]
    modules = next((path for path in paths if (path / "onnxruntime-node").is_dir()), None)
    if modules is None:
        pytest.skip("no onnxruntime-node in a folder of NODE_PATH, in examples/node_modules or in node_modules")
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(modules.resolve())
    return Path(shutil.copy(EXAMPLES / "onnx.mjs", folder))


def build(program: Path, command: list[object]) -> Path:
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    completed = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    assert completed.returncode == 0, completed.stderr[-3000:]
    return program


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)


def numbers_of(artifact: Path) -> list[str]:
    """Return patch size, mean and std as arguments of the C++ programs; no mean and std for uint8 input."""
    manifest = read_manifest(artifact)
    if manifest.inputs[0].dtype == "uint8":
        return [str(manifest.patch)]
    return [str(manifest.patch)] + [str(number) for key in ("mean", "std") for number in manifest.preprocessing[key]]


def check(completed: subprocess.CompletedProcess[str], artifact: Path, photo: Path) -> None:
    """Compare the output of a program with the Python runner."""
    assert completed.returncode == 0, completed.stderr
    runner = load(artifact, "cpu")
    image = runner.prepare(Image.open(photo), size=(HEIGHT, WIDTH))
    shapes = {"images": [1, *image.shape], "embedding": [1, 64], "feature_map": [1, 64, HEIGHT // 16, WIDTH // 16]}
    *lines, values = completed.stdout.splitlines()
    assert lines == [f"{name} {shape}" for name, shape in shapes.items()]
    actual = np.array(values.removeprefix("first values ").split(), float)
    expected = runner(image[None]).embedding[0, :8]
    assert np.ptp(expected) > 0.1  # values that could not be mistaken for others
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("kind", INPUTS)
def test_torchscript_in_cpp(kind: str, torchscript: Path, artifact: Callable[[str, str], Path], photo: Path) -> None:
    file = artifact("torchscript", kind)
    check(run(torchscript, file, photo, *numbers_of(file)), file, photo)


@pytest.mark.parametrize("kind", INPUTS)
def test_onnx_in_cpp(kind: str, onnx: Path, artifact: Callable[[str, str], Path], photo: Path) -> None:
    file = artifact("onnx", kind)
    check(run(onnx, file, photo, *numbers_of(file)), file, photo)


@pytest.mark.parametrize("kind", INPUTS)
def test_onnx_in_node(kind: str, node_script: Path, artifact: Callable[[str, str], Path], photo: Path) -> None:
    file = artifact("onnx", kind)
    check(run("node", node_script, file, photo), file, photo)


def test_cpp_rejects_invalid_images(
    torchscript: Path, artifact: Callable[[str, str], Path], photo: Path, tmp_path: Path
) -> None:
    file = artifact("torchscript", "float32")
    numbers, odd, short = numbers_of(file), tmp_path / "odd.ppm", tmp_path / "short.ppm"
    Image.new("RGB", (40, 32)).save(odd)
    short.write_bytes(photo.read_bytes()[:-1])
    assert run(torchscript).returncode == 2
    for picture, reason in ((odd, "must be multiples of 16"), (short, "ends too early"), (file, "not a PPM file")):
        completed = run(torchscript, file, picture, *numbers)
        assert (completed.returncode, completed.stdout) == (1, "")
        assert reason in completed.stderr
