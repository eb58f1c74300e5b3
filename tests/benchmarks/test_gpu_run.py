"""Tests of the GPU checks (benchmarks/gpu), without a GPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpu import run as gpu_run
from gpu.results import CUT_OFF, FAILED, LACKING, NOT_STARTED, PASSED, judge, read_rows, write_results
from gpu.wheelhouse import missing_packages, pack, read_names, read_pins
from helpers.paths import ROOT
from helpers.running_service import wait_for

RUN = ROOT / "benchmarks" / "gpu" / "run.py"

PART = '''
"""A part for this test."""
import os, subprocess, sys, time
NEEDS = {needs!r}
def run(context):
    context.add("first", 1.0, ok=True)
    {body}
'''


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes a part of the given body and runs it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setattr(gpu_run, "ROOT", tmp_path / "checkout")
    code = tmp_path / "checkout" / "benchmarks" / "gpu"
    (code / "parts").mkdir(parents=True)
    for name in ("__init__.py", "part.py", "parts/__init__.py"):
        (code / name).write_text((ROOT / "benchmarks" / "gpu" / name).read_text())

    def run(body: str, limit: float = 60, left: float = 1000, needs: tuple[str, ...] = ()):
        (code / "parts" / "sample.py").write_text(PART.format(body=body, needs=needs))
        arguments = ["--device", "cpu", "--work", str(tmp_path), "--images", str(tmp_path)]
        return gpu_run.run_part("sample", limit, time.monotonic() + left, tmp_path, arguments)

    return run


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended may still be listed until its parent asks for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_passes_with_its_rows(part) -> None:
    result = part("pass")
    assert (result.status, [row["what"] for row in result.rows]) == (PASSED, ["first"])


def test_a_row_that_is_not_ok_fails_its_part(part) -> None:
    result = part("context.add('weights differ', 0.1, ok=False)")
    assert (result.status, result.reason) == (FAILED, "weights differ")


def test_an_error_fails_its_part_and_keeps_the_rows(part) -> None:
    result = part("raise ValueError('no kernel for this card')")
    assert result.status == FAILED
    assert "no kernel for this card" in result.reason
    assert len(result.rows) == 1


def test_a_part_says_what_it_lacks(part) -> None:
    result = part("raise AssertionError", needs=("no_such_module",))
    assert result.status == LACKING
    assert "no_such_module" in result.rows[0]["note"]


def test_a_part_that_hangs_fails_and_its_processes_end(part, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    child = f"import os,time; open({str(marker)!r},'w').write(str(os.getpid())); time.sleep(600)"
    for limit in (2, 10, 60):  # the first that is long enough on this machine for the inner process to start
        result = part(f"subprocess.run([sys.executable, '-c', {child!r}])", limit=limit)
        if marker.exists() and marker.read_text():
            break
    assert result.status == FAILED
    assert "not finished" in result.reason
    assert wait_for(lambda: not is_running(int(marker.read_text())))  # a killed process may take a moment to end


def test_a_part_at_the_end_of_the_time_is_cut_off(part) -> None:
    assert part("time.sleep(600)", limit=600, left=1).status == CUT_OFF
    assert part("pass", left=-1).status == NOT_STARTED


def test_a_last_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{"what": "a"}\n{"what": "b", "val')
    assert read_rows(tmp_path / "rows") == [{"what": "a"}]


def test_a_killed_process_is_a_failure() -> None:
    assert judge(-9, [], "")[0] == FAILED


def test_results_are_written_as_json_and_markdown(tmp_path: Path) -> None:
    rows = [{"what": "rate | a", "value": 12.345678, "unit": "images/s", "ok": False}]
    parts = [gpu_run.PartResult("sample", FAILED, "two\nlines", 3.0, rows)]
    write_results(tmp_path, {"card": "none"}, parts)
    assert json.loads((tmp_path / "results.json").read_text())["parts"][0]["rows"] == rows
    text = (tmp_path / "results.md").read_text()
    assert "| sample | FAILED | 3 | two lines |" in text
    assert "| rate \\| a | 12.35 images/s |  | FAILED |" in text


def test_the_command_runs_on_a_cpu(tmp_path: Path) -> None:
    """One part, which exports and runs every format; the others take minutes together."""
    options = ["--device", "cpu", "--tiny", "--only", "inference", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, str(RUN), *options], capture_output=True, text=True, check=False)
    content = json.loads((tmp_path / "results.json").read_text())
    assert done.returncode == 0, content["parts"]
    rows = {row["what"]: row for row in content["parts"][0]["rows"]}
    assert rows["onnx fp32, 1 x 32"]["ok"]
    assert rows["onnx fp32, 1 x 32"]["value"] > 0
    assert content["machine"]["device"] == "cpu, tiny"


def test_without_a_gpu_every_part_says_so(tmp_path: Path) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    options = ["--only", "learning", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, str(RUN), *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "no CUDA device" in done.stdout


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(RUN), "--only", "trainin"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "trainin" in done.stderr
    assert "learning" in done.stderr


def test_wheels_are_packed_within_the_limit(tmp_path: Path) -> None:
    sizes = [50, 40, 30, 20, 10, 101]
    wheels = []
    for index, size in enumerate(sizes):
        wheels.append(tmp_path / f"{index}.whl")
        wheels[-1].write_bytes(bytes(size))
    out = tmp_path / "out"
    assert [wheel.name for wheel in pack(wheels, out, 100)] == ["5.whl"]
    parts = [sum(file.stat().st_size for file in folder.iterdir()) for folder in out.iterdir()]
    assert sum(parts) == 150
    assert len(parts) == 2
    assert max(parts) <= 100


def test_missing_packages_are_those_of_the_pins(tmp_path: Path) -> None:
    pins = read_pins(ROOT / "constraints.txt")
    has = tmp_path / "has.txt"
    has.write_text("torch==2.11.0\nTorchVision==0.26.0+cu130\nonnxruntime==1.30.0\ntyping_extensions @ file:///x\n")
    names = read_names(has)
    missing = missing_packages(["gtsa-kit[serve]"], names, "3.12")
    assert {"pydantic", "pydantic-core", "fastapi", "zarr", "numcodecs"} <= missing
    assert not {"torch", "torchvision", "onnxruntime-gpu", "typing-extensions", "triton"} & missing
    assert missing - {"gtsa-kit"} <= set(pins)
    assert all("--hash=sha256:" in pins[name] for name in missing - {"gtsa-kit"})
