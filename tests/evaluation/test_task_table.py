"""`gtsa eval table`: equal protocols from several weights, resumed, with scores that are those of the runs."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.evaluation_data import write_blocks

from gtsa_kit.config.finetune_presets import load_finetune_config
from gtsa_kit.evaluation.task_table import finetune_all, name_starts, one_protocol, table_runs
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.weights import save_encoder
from gtsa_kit.tasks.state import FinetuneCallback

pytestmark = pytest.mark.usefixtures("no_run_figures")

SMALL = {"train.steps": 2, "train.batch_size": 2, "augment.size": 32, "train.workers": 0, "train.eval_every": 2}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of an encoder."""
    folder = tmp_path / "weights"
    folder.mkdir()
    encoder = Encoder("vit_test")
    return save_encoder(folder, encoder.vit.state_dict(), "vit_test", {}).parent


def test_the_table_holds_the_scores_of_its_runs_and_a_second_call_trains_nothing(
    weights: Path, tmp_path: Path, gtsa_here: Callable
) -> None:
    data, out = write_blocks(tmp_path / "data"), tmp_path / "table"
    settings = [text for key, value in SMALL.items() for text in ("--set", f"{key}={value}")]
    command = ["eval", "table", data, weights, "--random", "vit_test", "--out", out, "--seeds", 2, "--json", *settings]
    done = gtsa_here(*command)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["model"] for row in report["summary"]] == ["random vit_test", "weights"]
    for line in report["summary"]:
        runs = [row["run"] for row in report["rows"] if row["model"] == line["model"]]
        scores = [json.loads(Path(run, "scores.json").read_text()) for run in runs]
        assert [one["seed"] for one in scores] == [0, 1]
        assert {one["frozen"] for one in scores} == {True}  # random weights have the protocol of the others
        assert line["miou"] == pytest.approx(statistics.fmean(one["miou"] for one in scores))
    assert {path.name for path in out.iterdir()} >= {"table.json", "table.png"}
    assert not (out / "features").exists()
    models = sorted(out.glob("*/model.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in models]
    again = gtsa_here(*command)
    assert (again.returncode, json.loads(again.stdout)["rows"]) == (0, report["rows"])
    assert [path.stat().st_mtime_ns for path in models] == stamps
    other = gtsa_here(*command, "--set", "optim.lr=0.5")
    assert other.returncode == 2
    assert "optim.lr" in other.stderr


def test_a_table_that_was_stopped_goes_on(weights: Path, tmp_path: Path) -> None:
    class StopsOnce(FinetuneCallback):
        stopped = False

        def should_stop(self) -> bool:
            first, self.stopped = not self.stopped, True
            return first

    from gtsa_kit.evaluation.runs import TrainingStoppedError

    data, out = write_blocks(tmp_path / "data"), tmp_path / "table"

    def runs() -> dict:
        settings = one_protocol(None, {**SMALL, "train.freeze": False}, out)
        return table_runs("segment", data, name_starts([weights], []), 1, None, settings, out)

    callback = StopsOnce()
    with pytest.raises(TrainingStoppedError):
        finetune_all(runs(), callback)
    finetune_all(runs(), callback)
    [scores] = out.glob("*/scores.json")
    assert json.loads(scores.read_text())["steps"] == 2


def test_wrong_tables_are_refused(weights: Path, tmp_path: Path, gtsa_here: Callable) -> None:
    data = write_blocks(tmp_path / "data")
    for options, words in (
        ([weights, weights], "given twice"),
        ([], "no model given"),
        ([weights, "--set", "train.seed=3"], "train.seed is set by the table"),
        ([weights, "--set", "optim.speed=3"], "optim.speed"),
        ([weights, "--task", "classify", "--preset", "ade20k-fpn"], "ade20k-fpn"),
    ):
        done = gtsa_here("eval", "table", data, *options, "--out", tmp_path / "out")
        assert done.returncode == 2, (options, done.stderr)
        assert words in done.stderr, done.stderr
    assert load_finetune_config("segment").train.freeze == "auto"  # what the table replaces
