"""Tests of the GPU checks (benchmarks/gpu), without a GPU."""

import json
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from gpu import run as gpu_run
from gpu.part import make_images
from gpu.results import CUT_OFF, FAILED, LACKING, NOT_STARTED, PASSED, judge, read_rows, write_results
from gpu.wheelhouse import OWN, missing_packages, pack, read_pins, read_versions, wheel_requires
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
    for name in ("__init__.py", "part.py", "results.py", "parts/__init__.py"):
        (code / name).write_text((ROOT / "benchmarks" / "gpu" / name).read_text())

    def run(body: str, limit: float = 60, own: float = 0, needs: tuple[str, ...] = ()):
        (code / "parts" / "sample.py").write_text(PART.format(body=body, needs=needs))
        arguments = ["--device", "cpu", "--work", str(tmp_path), "--images", str(tmp_path)]
        return gpu_run.run_part("sample", limit, own, tmp_path, arguments)

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
    assert result.rows == [{"what": "lacks", "value": "no_such_module", "unit": "", "note": "A part for this test."}]
    assert result.reason == "lacks no_such_module"


def test_a_module_that_a_part_does_not_name_is_lacking_too(part) -> None:
    result = part("import no_such_module")
    assert (result.status, result.reason) == (PASSED, "lacks no_such_module")
    assert result.rows[0]["what"] == "first"
    in_script = part("from gpu.part import call; call(['-c', 'import no_such_module.inner'])")
    assert in_script.reason == "lacks no_such_module"


def test_a_missing_module_of_the_checkout_is_a_failure(part) -> None:
    result = part("import gtsa_kit.no_such_module")
    assert result.status == FAILED
    assert "gtsa_kit" in result.reason


def test_a_part_knows_its_time_and_says_what_it_leaves_out(part) -> None:
    result = part("context.has_time(10, 'short'); context.has_time(100, 'long')", limit=60)
    assert (result.status, result.reason) == (PASSED, "no time for long")


def test_a_script_that_fails_is_quoted(part) -> None:
    result = part("from gpu.part import call; call(['-c', 'print(1); raise ValueError(\"no kernel\")'])")
    assert result.status == FAILED
    assert "no kernel" in result.reason


def test_files_of_an_earlier_run_are_gone(part) -> None:
    body = "open(context.work / 'file', 'x').close()"  # x fails on an existing file
    assert [part(body).status for _ in range(2)] == [PASSED, PASSED]


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
    assert part("time.sleep(600)", limit=1, own=600).status == CUT_OFF
    assert part("pass", limit=-1, own=600).status == NOT_STARTED


def test_times_of_parts() -> None:
    names = list(gpu_run.PARTS)
    assert sum(gpu_run.PARTS.values()) <= 12 * 60
    first, *following = names
    own = gpu_run.PARTS[first]
    needed = sum(gpu_run.PARTS.values())
    assert gpu_run.time_limit(first, following, needed) == own
    assert gpu_run.time_limit(first, following, needed + 100) == own + 100  # what nobody else needs
    assert gpu_run.time_limit(first, following, own + 1) == own  # the most valuable part first
    assert gpu_run.time_limit(first, following, 5) == 5
    assert gpu_run.time_limit(first, [], 3600) == 3600


def test_every_part_has_a_module_and_every_module_is_a_part() -> None:
    folder = RUN.parent / "parts"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(gpu_run.PARTS)
    for name in gpu_run.PARTS:
        module = import_module(f"gpu.parts.{name}")
        assert module.__doc__, name
        assert module.NEEDS, name
        assert callable(module.run), name
    guide = (ROOT / "docs" / "gpu.md").read_text()
    assert [name for name in gpu_run.PARTS if f"| {name} |" not in guide] == []


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
    make_images(tmp_path / "images", 1, 2)
    options = ["--device", "cpu", "--tiny", "--only", "inference", "--out", str(tmp_path)]
    options += ["--images", str(tmp_path / "images")]
    done = subprocess.run([sys.executable, str(RUN), *options], capture_output=True, text=True, check=False)
    content = json.loads((tmp_path / "results.json").read_text())
    assert done.returncode == 0, content["parts"]
    rows = {row["what"]: row for row in content["parts"][0]["rows"]}
    assert rows["onnx fp32, 1 x 32"]["ok"]
    assert rows["onnx fp32, 1 x 32"]["value"] > 0
    assert content["machine"]["device"] == "cpu, tiny"


def test_without_a_gpu_every_part_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command in this process, without the description of the machine, which is that of the test above."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(gpu_run, "describe_machine", dict)
    monkeypatch.setattr(gpu_run.signal, "signal", lambda *_: None)
    options = ["--only", "learning", "--out", str(tmp_path), "--images", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(RUN), *options])
    assert gpu_run.main() == 0
    assert "no CUDA device" in capsys.readouterr().out


def test_a_run_that_is_stopped_leaves_its_rows_and_no_process(part, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    write_pid = f"import signal; open({str(pid)!r}, 'w').write(str(os.getpid()))"
    body = f"{write_pid}; os.kill(os.getppid(), signal.SIGTERM)"
    part("pass")  # writes the checkout
    (tmp_path / "checkout/benchmarks/gpu/parts/sample.py").write_text(
        PART.format(body=body + "; time.sleep(600)", needs=())
    )
    code = (ROOT / "benchmarks/gpu/run.py").read_text()
    (tmp_path / "checkout/benchmarks/gpu/run.py").write_text(code.replace('"tests": 100', '"sample": 100'))
    options = ["--device", "cpu", "--only", "sample", "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, tmp_path / "checkout/benchmarks/gpu/run.py", *options])
    assert done.returncode == 130
    [result] = json.loads((tmp_path / "out" / "results.json").read_text())["parts"]
    assert (result["status"], result["reason"]) == (CUT_OFF, gpu_run.STOPPED)
    assert [row["what"] for row in result["rows"]] == ["first"]
    assert wait_for(lambda: not is_running(int(pid.read_text())))


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


REQUIREMENTS = {"gtsa-kit": ["a>=4.2", "b", "d; python_version < '3.12'"], "b": ["c", "e; extra == 'more'"]}


def installed_requires(name: str) -> list[str]:
    return metadata.requires(name) or []


def test_a_wheel_tells_its_requirements(tmp_path: Path) -> None:
    text = (
        "Metadata-Version: 2.4\nName: a\nRequires-Dist: b>=1\nRequires-Dist: c; extra == 'x'\n\nRequires-Dist: text\n"
    )
    with ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a-1.dist-info/METADATA", text)
    assert wheel_requires(tmp_path / "a.whl") == ["b>=1", "c; extra == 'x'"]


def test_missing_packages_are_those_of_the_pins(tmp_path: Path) -> None:
    pins = read_pins(ROOT / "constraints.txt", "3.12")
    has = tmp_path / "has.txt"
    has.write_text("torch==2.11.0\nTorchVision==0.26.0+cu130\nonnxruntime==1.30.0\ntyping_extensions @ file:///x\n")
    versions = read_versions(has)
    missing = missing_packages(["gtsa-kit[serve]"], versions, "3.12", installed_requires)
    assert {"pydantic", "pydantic-core", "fastapi", "zarr", "numcodecs"} <= missing
    assert not {"torch", "torchvision", "onnxruntime-gpu", "typing-extensions", "triton"} & missing
    assert missing - OWN <= set(pins)
    assert all("--hash=sha256:" in pins[name] for name in missing - OWN)


def test_a_package_that_is_too_old_is_missing() -> None:
    def missing(**has: str) -> set[str]:
        return missing_packages(["gtsa-kit"], has, "3.12", lambda name: REQUIREMENTS.get(name, []))

    assert missing(a="4.3", b="1") == {"gtsa-kit"}
    assert missing(a="3.20", b="1") == {"gtsa-kit", "a"}
    assert missing(a="from a file", b="1") == {"gtsa-kit"}
    assert missing(b="1") == {"gtsa-kit", "a"}
    assert missing(a="4.2") == {"gtsa-kit", "b", "c"}


def test_pins_are_those_of_the_python_version(tmp_path: Path) -> None:
    (tmp_path / "pins").write_text(
        "a==1 ; python_full_version < '3.12' \\\n    --hash=sha256:1\n"
        "a==2 ; python_full_version >= '3.12' \\\n    --hash=sha256:2 \\\n    --hash=sha256:3\n"
        "b==1 ; sys_platform == 'win32' \\\n    --hash=sha256:4\n"
    )
    assert read_pins(tmp_path / "pins", "3.11") == {"a": "a==1 --hash=sha256:1"}
    assert read_pins(tmp_path / "pins", "3.13") == {"a": "a==2 --hash=sha256:2 --hash=sha256:3"}
