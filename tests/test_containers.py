"""The Dockerfile builds from what it copies, and compose.yaml runs what the Dockerfile and the command line have."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.paths import ROOT
from typer.main import get_command

from gtsa_kit.cli import app

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
COPIED = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M) for name in line.split()]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def test_the_package_builds_from_what_is_copied(tmp_path: Path) -> None:
    """A file that the build reads and the Dockerfile does not copy would fail in the container alone."""
    for name in COPIED:
        source, target = ROOT / name, tmp_path / "context" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=tmp_path / "context", check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert "gtsa_kit/service/__init__.py" in wheel.namelist()


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(name.strip("./") for name in COPIED)


def test_base_images_are_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_service_gives_the_build_an_argument_that_it_has(name: str) -> None:
    arguments = COMPOSE["services"][name]["build"]["args"]
    assert set(arguments) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.M))
    assert f"\n{arguments['ONNXRUNTIME']}==" in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_the_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.search(r"^ARG EXTRAS=(\S+)", DOCKERFILE, re.M)
    assert extras
    assert set(extras[1].split(",")) <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_service_runs_a_command_line_that_exists(name: str) -> None:
    entry = re.search(r"^ENTRYPOINT \[(.*)\]", DOCKERFILE, re.M)
    assert entry
    program, command, *options = re.findall(r'"([^"]*)"', entry[1])
    model = COMPOSE["services"][name]["command"][0].replace("${MODEL:-encoder.onnx}", "encoder.onnx")
    assert (program, command) == ("gtsa", "serve")
    group = get_command(app)
    serve = group.commands[command]  # type: ignore[attr-defined]
    context = serve.make_context("serve", [*options, model], resilient_parsing=True)
    assert context.params["host"] == "0.0.0.0"
    assert COMPOSE["services"][name]["ports"][0].endswith(f":{context.params['port'] or 8000}")


def test_only_the_gpu_needs_a_gpu() -> None:
    """`docker compose up` works where there is none."""
    services = COMPOSE["services"]
    assert "profiles" not in services["cpu"]
    assert "deploy" not in services["cpu"]
    assert services["gpu"]["profiles"] == ["gpu"]
