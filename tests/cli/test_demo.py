"""The demo's verdict and settings; the demo itself takes minutes."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gtsa_kit.cli import demo
from gtsa_kit.config import load_config, parse_overrides


def finished_run(folder: Path, learned: bool) -> Path:
    learning = {"loss": -0.75, "baseline": -0.7 if learned else -0.8, "learned": learned}
    (folder / "encoder.json").write_text(json.dumps({"training": {"learning": learning}}))
    return folder


def test_the_demo_prints_the_loss_beside_its_baseline(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(demo._results_table(tmp_path, finished_run(tmp_path, True), tmp_path / "vectors"))
    assert "region loss -0.750, below its constant baseline of -0.700" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_demo_that_learned_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        demo._results_table(tmp_path, finished_run(tmp_path, False), tmp_path / "vectors")
    assert stopped.value.code == 1
    text = capsys.readouterr().err
    assert "learned nothing from the images: region loss -0.750, constant baseline -0.800" in text
    assert "more --steps" in text


def test_the_settings_of_the_demo_are_valid() -> None:
    config = load_config("quick", None, parse_overrides(list(demo.SETTINGS)))
    assert config.model.arch == demo.ARCH
    assert config.optim.teacher_momentum == "auto"
