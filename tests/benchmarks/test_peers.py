"""Logic of benchmarks/peers.py: turns, going on, medians, tables and environments, with fake peers."""

import subprocess
import sys
from pathlib import Path

import peers
import pytest
from peers_parts import environments, measured
from peers_parts.embed import describe_broken
from peers_parts.environments import PeerError, environment_python, last_line, pinned_version
from peers_parts.export import named_outputs
from peers_parts.measured import Usage, run_checked, run_measured
from peers_parts.rounds import (
    Column,
    Contestant,
    Job,
    Measurement,
    build_table,
    markdown,
    run_rounds,
    stored_rounds,
    summarize,
)
from peers_parts.setting import Setting
from peers_parts.train import step_figures
from rich.console import Console


class FakeTools:
    """Contestants with rates by tool and round; `None` fails."""

    def __init__(self, **rates: list[float | None]) -> None:
        self.rates, self.calls = rates, list[str]()

    def job(self) -> Job:
        contestants = [
            Contestant(name, lambda folder, name=name: self.measure(name, folder), "" if name == "ours" else "ours")
            for name in self.rates
        ]
        columns = (Column("rate", "images/s", 1), Column("seconds", "s"), Column("note", "note"))
        return Job("train", "Training", columns, (("rate", True), ("seconds", False)), tuple(contestants))

    def measure(self, name: str, folder: Path) -> Measurement:
        assert list(folder.iterdir()) == []
        self.calls.append(name)
        (folder / "log.txt").touch()
        rate = self.rates[name][int(folder.name.rpartition(".")[2])]
        if rate is None:
            raise PeerError("no such model")
        return {"rate": rate, "seconds": 1 / rate, "note": "fp32"}


def quiet(*_: object) -> None:
    """Do nothing after a measurement."""


def test_tools_take_turns_and_ratios_are_those_of_the_same_round(tmp_path: Path) -> None:
    """The second round is disturbed: both are slower, and the ratio is not."""
    tools = FakeTools(ours=[4.0, 1.0, 6.0], peer=[2.0, 0.5, 2.0])
    rows = summarize(tools.job(), run_rounds(tools.job(), 3, tmp_path, quiet))
    assert tools.calls == ["ours", "peer"] * 3
    assert [(row["rate"], row["rounds"]) for row in rows] == [(4.0, 3), (2.0, 3)]
    assert rows[1]["ahead"] == {"rate": 2.0, "seconds": 2.0}
    assert rows[0]["ahead"] == {}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    tools = FakeTools(ours=[4.0, 5.0], peer=[2.0, 3.0])
    first = run_rounds(tools.job(), 1, tmp_path, quiet)
    (tmp_path / "train" / "ours.1").mkdir()
    (tmp_path / "train" / "ours.1" / "half").touch()
    both = run_rounds(tools.job(), 2, tmp_path, quiet)
    assert tools.calls == ["ours", "peer"] * 2
    assert {name: rows[:1] for name, rows in both.items()} == first
    assert stored_rounds(tools.job(), tmp_path) == both
    assert tools.calls == ["ours", "peer"] * 2


def test_a_tool_that_fails_has_its_reason_in_the_table_and_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    tools = FakeTools(ours=[4.0, 5.0], peer=[None, 3.0])
    job, failures = tools.job(), []
    results = run_rounds(job, 2, tmp_path, lambda name, index, row: failures.append((name, index, "error" in row)))
    assert tools.calls == ["ours", "peer", "ours"]
    assert failures == [("ours", 0, False), ("peer", 0, True), ("ours", 1, False)]
    rows = summarize(job, results)
    assert "- peer: no such model" in markdown(job, rows)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(build_table(job, rows))
    text = console.export_text()
    assert "no such model" in text
    tools.rates["peer"] = [2.0, 3.0]
    assert "error" not in summarize(job, run_rounds(job, 2, tmp_path, quiet))[1]


def test_tables_in_markdown_have_a_cell_for_each_title(tmp_path: Path) -> None:
    tools = FakeTools(ours=[4.0], peer=[2.0])
    lines = markdown(tools.job(), summarize(tools.job(), run_rounds(tools.job(), 1, tmp_path, quiet))).splitlines()
    assert lines[2] == "|  | images/s | s | note | ours ahead: rate | ours ahead: seconds |"
    assert lines[4:] == ["| ours | 4.0 | 0.25 | fp32 |  |  |", "| peer | 2.0 | 0.50 | fp32 | 2.00 | 2.00 |"]


class FakeInstall:
    """Stands for venv and pip."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.installed = failing, list[str]()

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if "venv" in command:
            (Path(command[-1]) / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
            return subprocess.CompletedProcess(command, 0)
        name = Path(command[-1]).stem
        self.installed.append(name)
        error = "WARNING: slow\nERROR: No matching distribution found for peer==9" if name == self.failing else ""
        return subprocess.CompletedProcess(command, bool(error), "", error)


def write_pins(folder: Path) -> Path:
    folder.mkdir()
    (folder / "torch.txt").write_text("torch==1.0\n")
    (folder / "peer.txt").write_text("Other==2.0\nlightly_peer==9.1\n")
    return folder


def test_environments_are_made_once_share_torch_and_are_made_again_for_other_pins_and_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install, pins = FakeInstall(), write_pins(tmp_path / "pins")
    monkeypatch.setattr(environments.subprocess, "run", install)
    for _ in range(2):
        python = environment_python("peer", tmp_path / "all", pins)
    assert (python, install.installed) == (tmp_path / "all" / "peer" / "bin" / "python", ["torch", "peer"])
    [link] = (tmp_path / "all" / "peer").rglob("*.pth")
    assert Path(link.read_text().strip()) == tmp_path / "all" / "torch" / "lib" / "python3.11" / "site-packages"
    (pins / "peer.txt").write_text("lightly_peer==9.2\n")
    environment_python("peer", tmp_path / "all", pins)
    assert install.installed == ["torch", "peer", "peer"]
    assert pinned_version("peer", "lightly-peer", pins) == "9.2"
    (tmp_path / "all").rename(tmp_path / "moved")
    environment_python("peer", tmp_path / "moved", pins)
    assert install.installed == ["torch", "peer", "peer", "torch", "peer"]
    [link] = (tmp_path / "moved" / "peer").rglob("*.pth")
    assert Path(link.read_text().strip()) == tmp_path / "moved" / "torch" / "lib" / "python3.11" / "site-packages"


def test_a_peer_that_can_not_be_installed_says_why_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install, pins = FakeInstall("peer"), write_pins(tmp_path / "pins")
    monkeypatch.setattr(environments.subprocess, "run", install)
    for _ in range(2):
        with pytest.raises(PeerError, match=r"not installed: ERROR: No matching distribution found for peer==9"):
            environment_python("peer", tmp_path / "all", pins)
    assert install.installed == ["torch", "peer", "peer"]


def test_pins_are_names_versions_and_hashes_alone() -> None:
    pins = sorted(environments.PINS.glob("*.txt"))
    assert {path.stem for path in pins} == {*peers.VERSIONS, "torch"}
    for path in pins:
        for line in path.read_text().replace(" \\\n", "").splitlines():
            requirement, *hashes = line.split()
            assert hashes, (path.name, requirement)
            assert all(one.startswith("--hash=sha256:") and len(one) == 78 for one in hashes), (path.name, requirement)
            name, _, pinned = requirement.partition("==")
            assert name.replace("-", "").replace("_", "").replace(".", "").isalnum(), (path.name, line)
            assert pinned[0].isdigit(), (path.name, line)
            assert "/" not in pinned, (path.name, line)
    for name, packages in peers.VERSIONS.items():
        assert all(pinned_version(name, package) for package in packages)


def test_memory_and_cpu_time_are_those_of_all_processes_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child holds 60 MB and computes, the parent holds 80; they end when both were seen."""
    seen, look = tmp_path / "seen", measured.session_memory_mb

    def look_and_tell(session: int) -> float:
        megabytes = look(session)
        if megabytes > 140:
            seen.touch()
        return megabytes

    monkeypatch.setattr(measured, "session_memory_mb", look_and_tell)
    child = "import sys; data = bytearray(b'1' * 60_000_000); sum(range(6_000_000)); sys.stdin.read()"
    code = (
        "import os, subprocess, sys, time; data = bytearray(b'1' * 80_000_000)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE)\n"
        f"while not os.path.exists({str(seen)!r}): time.sleep(0.01)\n"
        "child.communicate(); print('done'); sys.exit(3)"
    )
    usage = run_measured([sys.executable, "-c", code], tmp_path / "log.txt", timeout=300)
    assert (usage.code, usage.output) == (3, "done\n")
    assert 140 < usage.peak_mb < 300
    assert usage.cpu_seconds > 0.1


def test_a_command_that_fails_gives_its_last_error(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"exit code 1: ValueError: no such model"):
        run_checked([sys.executable, "-c", "raise ValueError('no such model')"], tmp_path / "log.txt")
    assert last_line("a\nERROR: b\nWARNING: c\nd\n") == "ERROR: b"
    assert last_line("") == "no message"


def test_a_command_without_end_is_killed_with_its_children(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    usage = run_measured([sys.executable, "-c", code], tmp_path / "log.txt", timeout=0.5)
    assert usage.code == -9
    assert usage.seconds < 60


def test_the_rate_of_training_is_that_from_the_first_step_to_the_last() -> None:
    rows = [{"seconds": s, "cpu_seconds": 2 * s} for s in (10.0, 12.0, 13.0, 18.0)]
    figures = step_figures(rows, Usage(0, 20.0, 40.0, 900.0, ""))
    assert figures["images_per_second"] == pytest.approx(8 * 3 / 8)
    assert figures["cpu_seconds_per_step"] == pytest.approx(16 / 3)
    assert (figures["median_step_seconds"], figures["start_seconds"], figures["peak_mb"]) == (2.0, 12.0, 900.0)


@pytest.mark.parametrize(
    ("code", "vectors", "printed", "listed", "expected"),
    [
        (1, 0, "OSError: bad 7.jpg", "", "ends, no vectors: OSError: bad 7.jpg"),
        (0, 98, "", "7.jpg\n8.jpg\n", "all others embedded, 2 of 2 named"),
        (0, 98, "", "", "all others embedded, 0 of 2 named"),
        (0, 100, "", "", "vectors for all files, broken ones too, 0 of 2 named"),
        (1, 64, "OSError", "", "64 of 98 vectors, 0 of 2 named"),
    ],
)
def test_what_happens_to_broken_files(code: int, vectors: int, printed: str, listed: str, expected: str) -> None:
    assert describe_broken(code, printed, vectors, 100, ["7.jpg", "8.jpg"], listed) == expected


def test_folders_repeat_the_images_and_have_the_named_number_of_broken_files(tmp_path: Path) -> None:
    from PIL import Image

    for name in "ab":
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "red" if name == "a" else "blue").save(tmp_path / "images" / f"{name}.jpg")
    setting = Setting(tmp_path / "images", tmp_path / "out")
    folder = setting.folder_of(100, 3)
    assert len(list(folder.iterdir())) == 100
    broken = sorted(path for path in folder.iterdir() if not path.is_symlink())
    assert len(broken) == 3
    for path in broken:
        with pytest.raises(OSError, match=r"(?i)truncated|cannot identify"):
            Image.open(path).load()
    assert setting.folder_of(100, 3) == folder
    assert all(path.is_symlink() for path in setting.folder_of(5).iterdir())


def test_outputs_of_other_tools_are_vectors_or_tokens() -> None:
    import numpy as np

    tokens = np.arange(2 * 7 * 4, dtype=np.float32).reshape(2, 7, 4)
    outputs = named_outputs([tokens], 32, 48)
    assert outputs["feature_map"].shape == (2, 4, 2, 3)
    assert np.array_equal(outputs["feature_map"][1, :, 1, 2], tokens[1, 6])
    assert np.allclose(outputs["embedding"], outputs["feature_map"].mean((2, 3)))
    assert list(named_outputs([tokens[:, 0]], 32, 48)) == ["embedding"]


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    peers.check_settings(tmp_path, Setting(tmp_path, tmp_path))
    peers.check_settings(tmp_path, Setting(tmp_path, tmp_path))
    with pytest.raises(ValueError, match=r"holds measurements of .* name another folder"):
        peers.check_settings(tmp_path, Setting(tmp_path, tmp_path, micro=True))
