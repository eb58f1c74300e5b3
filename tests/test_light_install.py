"""The light installation: an exported file is opened, embedded and described with the core's dependencies alone."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.channel_models import bands, save_channel_encoder
from helpers.commands import one_thread
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import gtsa_kit
from gtsa_kit.extras import EXTRAS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STAND_IN = {"onnxruntime": "onnxruntime-gpu"}
"""Packages that install the module of another one, as on machines with a GPU."""

BLOCK = """
import contextlib, io, json, sys

blocked, given = (json.loads(text) for text in sys.argv[1:])


class Installed:
    finders = list(sys.meta_path)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in blocked:
            specs = (finder.find_spec(name, path, target) for finder in self.finders)
            return next((spec for spec in specs if spec), None)

    def find_distributions(self, *context):
        for finder in self.finders:
            yield from getattr(finder, "find_distributions", lambda *_: ())(*context)


sys.meta_path[:] = [Installed()]
import numpy as np

import gtsa_kit
from gtsa_kit.cli import main


def command(*arguments):
    sys.argv, code, out, err = ["gtsa", *arguments], 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
    return code, out.getvalue(), err.getvalue()


def error_of(call):
    try:
        call()
    except ImportError as error:
        return str(error)
"""
"""Blocks modules; what follows it sees `given`."""

EMBED = """
model, images, out = given["model"], given["images"], given["out"]
items = list(gtsa_kit.embed(images, gtsa_kit.load(model)))
np.savez(out + ".npz", **{item.path: item.features.embedding for item in items})
commands = {
    "help": ["--help"],
    "embed help": ["embed", "--help"],
    "info": ["info", model],
    "embed": ["embed", images, "--model", model, "--out", out, "--dense"],
    "search": ["embed", "search", out, "--row", items[0].path, "--json"],
    "search image": ["embed", "search", out, "--image", images + "/1.png", "--json"],
    "duplicates": ["embed", "duplicates", out, "--threshold", "0.5", "--json"],
    "search sheet": ["embed", "search", out, "--row", items[0].path, "--contact-sheet", out + ".jpg"],
    "map on a GPU": ["embed", "map", out, "--device", "cuda"],
    "push": ["embed", "push", out, "--to", "faiss", "--path", out + ".faiss"],
    "train": ["train", images, "--out", out + "run"],
    "export": ["export", given["run"], "--format", "onnx"],
    "map": ["embed", "map", out, "--out", out + ".html"],
    "embed weights": ["embed", images, "--model", given["run"], "--out", out + "2"],
}
errors = {
    "pretrain": lambda: gtsa_kit.pretrain,
    "export": lambda: gtsa_kit.export("run"),
    "load": lambda: gtsa_kit.load(given["run"]),
}
json.dump(
    {"commands": {name: command(*arguments) for name, arguments in commands.items()},
     "errors": {name: error_of(call) for name, call in errors.items()}},
    sys.stdout,
)
"""


SERVE = """
from pathlib import Path

from starlette.testclient import TestClient

from gtsa_kit.cli.serve import create_loaded_app
from gtsa_kit.service.settings import ServiceSettings

app, _, _ = create_loaded_app(ServiceSettings(Path(given["model"])))
with TestClient(app) as client:
    files = {path.name: path.read_bytes() for path in sorted(Path(given["images"]).iterdir())}
    query = "/v1/features?boxes=10,20,200,210&format=json&dtype=float32"
    kind = {"Content-Type": "image/png"}
    half = client.post("/v1/features?format=json&dtype=float16", content=files["0.png"], headers=kind)
    assert half.status_code == 200, half.text
    answers = {name: client.post(query, content=file, headers=kind) for name, file in files.items()}
app, _, _ = create_loaded_app(ServiceSettings(Path(given["bands_model"])))
with TestClient(app) as client:
    body, kind = Path(given["bands"]).read_bytes(), {"Content-Type": "application/x-npy"}
    bands = client.post("/v1/features?format=json&dtype=float32", content=body, headers=kind)
    assert bands.status_code == 200, bands.text
json.dump(
    {"answers": {name: [answer.status_code, answer.json()] for name, answer in answers.items()},
     "bands": bands.json()["embedding"],
     "torch": "torch" in sys.modules,
     "weights": command("serve", given["run"], "--port", "0") if blocked else None},
    sys.stdout,
)
"""
"""Serves an ONNX file, and tries to serve weights; it follows `BLOCK`."""


def core_packages(extra: str = "") -> set[str]:
    """Return the names of the packages that the project needs with one extra or none, and of what these need."""
    core: set[str] = set()
    waiting = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] if extra else [])]
    while waiting:
        needed = Requirement(waiting.pop())
        name = canonicalize_name(needed.name)
        if name in core or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        core.add(name)
        for candidate in (name, STAND_IN.get(name)):
            try:
                waiting += requires(candidate or name) or []
            except PackageNotFoundError:
                continue
            core.add(canonicalize_name(candidate or name))
    return core


def blocked_modules(extra: str = "") -> list[str]:
    """Return the installed modules that no package of the core and of an extra brings."""
    core = core_packages(extra) | {"gtsa-kit"}
    installed = packages_distributions()
    return [name for name, owners in installed.items() if core.isdisjoint(map(canonicalize_name, owners))]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images near the size of the input, and one that is shrunk, which torch does if it is there."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for index, size in enumerate([(230, 240), (250, 220), (224, 224), (300, 260), (900, 800)]):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def bands_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of an encoder for five channels, beside its weights."""
    folder = tmp_path_factory.mktemp("bands")
    np.save(folder / "images.npy", bands())
    weights = save_channel_encoder(folder)
    return Path(gtsa_kit.export(weights, out=folder / "bands.onnx", images=folder / "images.npy"))


@pytest.fixture(scope="module")
def light(pictures: Path, tiny_onnx: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of commands and functions in a process where nothing can be imported but the core."""
    blocked = blocked_modules()
    assert {"torch", "torchvision", "timm", "matplotlib", "onnxscript"} <= set(blocked)
    out = tmp_path_factory.mktemp("light") / "out"
    given = {"model": str(tiny_onnx), "images": str(pictures), "out": str(out), "run": str(tiny_run)}
    return {**run_blocked(EMBED, blocked, given), "out": out}


def run_blocked(code: str, blocked: list[str], given: dict[str, str]) -> dict[str, Any]:
    """Run code in a process where some modules can't be imported, and return what it prints."""
    command = [sys.executable, "-c", BLOCK + code, json.dumps(blocked), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=one_thread())
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("installed", ["serve", "everything"])
def test_features_of_an_onnx_file_are_served_without_torch(
    installed: str, pictures: Path, tiny_onnx: Path, tiny_run: Path, bands_onnx: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "bands.npy", bands())
    given = {"bands_model": str(bands_onnx), "bands": str(tmp_path / "bands.npy")}
    blocked = blocked_modules("serve") if installed == "serve" else []
    assert "fastapi" not in blocked
    given |= {"model": str(tiny_onnx), "images": str(pictures), "run": str(tiny_run)}
    served = run_blocked(SERVE, blocked, given)
    assert served["torch"] is False
    (row,) = gtsa_kit.embed(tmp_path / "bands.npy", gtsa_kit.load(bands_onnx.with_name("encoder.safetensors"), "cpu"))
    np.testing.assert_allclose(served["bands"], row.features.embedding, atol=2e-5)
    expected = {item.path: item.features.embedding for item in gtsa_kit.embed(pictures, gtsa_kit.load(tiny_onnx))}
    assert served["answers"].keys() == expected.keys()
    for name, (status, body) in served["answers"].items():
        assert status == 200, body
        assert np.isfinite(body["feature_map.boxes"]).all()
        np.testing.assert_allclose(body["embedding"], expected[name], atol=2e-5 if name != "4.png" else 0.02)
    if installed == "everything":
        return
    assert {"torch", "torchvision", "timm"} <= set(blocked)
    code, _, error = served["weights"]
    assert code == 2
    assert "pip install 'gtsa-kit[train]'" in error


@pytest.mark.parametrize("name", ["help", "embed help", "info", "embed", "search", "search image", "duplicates", "map"])
def test_commands_on_an_onnx_file_need_no_torch(light: dict[str, Any], name: str) -> None:
    code, _, error = light["commands"][name]
    assert code == 0, error


def test_info_tells_the_manifest(light: dict[str, Any]) -> None:
    assert "gtsa-kit onnx" in light["commands"]["info"][1]


def test_vectors_equal_those_with_torch(light: dict[str, Any], pictures: Path, tiny_onnx: Path) -> None:
    vectors = np.load(f"{light['out']}.npz")
    with_torch = {item.path: item.features.embedding for item in gtsa_kit.embed(pictures, gtsa_kit.load(tiny_onnx))}
    assert with_torch.keys() == set(vectors.files)
    for path, expected in with_torch.items():
        # A shrunk image is resized by torch, within one of 255 levels of Pillow.
        np.testing.assert_allclose(vectors[path], expected, atol=2e-5 if path != "4.png" else 0.02)
    rows = gtsa_kit_dataset(light["out"])
    for path, vector in rows.items():
        np.testing.assert_allclose(vector, vectors[path], atol=2e-5)


def gtsa_kit_dataset(folder: Path) -> dict[str, np.ndarray]:
    """Return the vectors of a dataset folder by path."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "vectors")
    return dict(zip(table["path"].to_pylist(), np.array(table["embedding"].to_pylist()), strict=True))


@pytest.mark.parametrize("name", ["train", "export", "search sheet", "map on a GPU", "embed weights"])
def test_other_commands_name_the_extra(light: dict[str, Any], name: str) -> None:
    code, _, error = light["commands"][name]
    assert code == 2
    assert "is not installed\n  hint: pip install 'gtsa-kit[train]'" in error, error


def test_searches_equal_those_with_torch(light: dict[str, Any], gtsa_here: Callable[..., Any], pictures: Path) -> None:
    first, image = light["out"], pictures / "1.png"
    for name, query in (("search", ["--row", "0.png"]), ("search image", ["--image", image])):
        _, printed, notes = light["commands"][name]
        assert "not drawn: a contact sheet: matplotlib is not installed" in notes
        with_torch = json.loads(gtsa_here("embed", "search", first, *query, "--json").stdout)["hits"]
        hits = json.loads(printed)["hits"]
        assert [hit["path"] for hit in hits] == [hit["path"] for hit in with_torch]
        cosines = [[hit["cosine"] for hit in some] for some in (hits, with_torch)]
        np.testing.assert_allclose(*cosines, atol=1e-5)
    duplicates = gtsa_here("embed", "duplicates", first, "--threshold", "0.5", "--json").stdout
    assert json.loads(light["commands"]["duplicates"][1]) == json.loads(duplicates)


def test_a_store_that_is_missing_is_named(light: dict[str, Any]) -> None:
    code, _, error = light["commands"]["push"]
    assert (code, "pip install 'gtsa-kit[faiss]'" in error) == (2, True), error


@pytest.mark.parametrize("name", ["pretrain", "export", "load"])
def test_other_functions_name_the_extra(light: dict[str, Any], name: str) -> None:
    assert "pip install 'gtsa-kit[train]'" in (light["errors"][name] or "")


def test_every_extra_that_errors_name_exists() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(EXTRAS.values()) <= extras.keys()
    owners = packages_distributions()
    for module, extra in EXTRAS.items():
        names = {canonicalize_name(Requirement(text).name) for text in extras[extra]}
        brought = {canonicalize_name(owner) for owner in owners.get(module, [])}
        if brought and module != "starlette":  # fastapi brings it
            assert any(owner.startswith(tuple(names)) for owner in brought), f"{module}: {brought}, {names}"
