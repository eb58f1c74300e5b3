"""Loggers of a run, each read back by a reader of its own: TensorBoard, Weights & Biases offline, MLflow's files."""

import importlib.util
import json
import os
import struct
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from helpers.commands import TINY
from PIL import Image

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.config.finetune_presets import load_finetune_config
from gtsa_kit.files import read_json_lines
from gtsa_kit.training.fabric import Fabric
from gtsa_kit.training.guards import open_run_logger
from gtsa_kit.training.loggers import opening
from gtsa_kit.training.loggers.opening import LoggerGroup, require_loggers
from gtsa_kit.training.run import train
from gtsa_kit.training.run_logger import RunLogger, StepMetrics
from gtsa_kit.training.trainer import TrainerCallback

ONE_PROCESS = cast(Fabric, SimpleNamespace(is_global_zero=True, broadcast=lambda value: value))
PIXELS = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def metrics(step: int, loss: float) -> StepMetrics:
    return StepMetrics(step, step / 4, loss, {"region": -loss}, 1.0, 2.0, {"lr": 0.1, "teacher_momentum": 0.9}, 5, 0, 1)


def open_logs(run: Path, step: int, config: RunConfig, notices: list[str]) -> RunLogger:
    logs = open_run_logger(ONE_PROCESS, run, step, config, notices.append, ())
    assert logs is not None
    return logs


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Settings of the services for one test: offline, and nothing of the user's."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return tmp_path


def log_interrupted_run(run: Path, logger: str) -> list[str]:
    """Log a run that was killed after step 5, resumed from the checkpoint of step 3 and ended at step 6."""
    run.mkdir()
    notices: list[str] = []
    config = load_config(overrides={"train.logger": logger, "train.steps": 5, "optim.lr": 0.25})
    logs = open_logs(run, 0, config, notices)
    logs.add_image("feature_colors", PIXELS, 0)
    for step in range(1, 6):
        logs.log_step(metrics(step, 10.0 + step))
        if step == 3:
            logs.add_scalar("knn_accuracy", 0.5, step)
    logs.close()
    resumed = load_config(overrides={"train.logger": logger, "train.steps": 6, "optim.lr": 0.25})
    logs = open_logs(run, 3, resumed, notices)
    for step in range(4, 7):
        logs.log_step(metrics(step, 20.0 + step))
    logs.add_image("feature_colors", PIXELS[::-1], 6)
    logs.finished = True
    logs.close()
    logs.close()  # nothing more happens
    assert [row["loss"] for row in read_json_lines(run / "metrics.jsonl")] == [11, 12, 13, 24, 25, 26]
    return notices


ONCE = [(1, 11.0), (2, 12.0), (3, 13.0), (4, 14.0), (5, 15.0), (6, 26.0)]
"""Steps and losses of a service that keeps the first value of a step."""


def test_tensorboard_has_each_step_once_and_the_values_of_the_resumed_run(services: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert log_interrupted_run(services / "street", "tensorboard") == []
    events = EventAccumulator(str(services / "street" / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [*ONCE[:3], (4, 24.0), (5, 25.0), (6, 26.0)]
    assert [(event.step, event.value) for event in events.Scalars("knn_accuracy")] == [(3, 0.5)]
    assert [event.step for event in events.Images("feature_colors")] == [0, 6]


def test_tensorboard_reads_the_files_in_the_order_of_their_writing(tmp_path: Path) -> None:
    # Names end in a counter of the process: from 9 to 10 their order changes within one second.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = RunConfig()
    for step in range(3):
        for _ in range(20):  # loggers that write no value leave no file
            open_logs(tmp_path, step, config, []).close()
        logs = open_logs(tmp_path, step, config, [])
        logs.add_scalar("value", float(step), step + 1)
        logs.close()
    names = [path.name.split(".tfevents.")[1][:10] for path in (tmp_path / "tensorboard").iterdir()]
    assert len(set(names)) == len(names) == 3
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("value")] == [1, 2, 3]


def wandb_records(folder: Path) -> Iterator[Any]:
    """Yield the records of a run's file: 7 bytes, then records of LevelDB's log format in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = b"".join(file.read_bytes() for file in folder.glob("*.wandb"))
    assert content[:4] in (b":W&B", b"")
    position, parts = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # no header fits in the block
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if position + 7 + length > len(content):  # it is being written
            return
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def finished_records(folder: Path) -> list[Any]:
    """Return the records of a run's file when its service, a process of its own, has written the last one."""
    deadline = time.monotonic() + 120
    while not (records := list(wandb_records(folder))) or not any(record.HasField("exit") for record in records):
        assert time.monotonic() < deadline, f"{folder} has no last record"
        time.sleep(0.05)
    return records


def wandb_content(run: Path) -> tuple[list[Any], dict[int, dict[str, Any]], dict[str, Any]]:
    """Return records of the runs, values by name of each step, and the settings, of all processes of a run."""
    runs, settings = [], {}
    steps: dict[int, dict[str, Any]] = defaultdict(dict)
    for folder in sorted((run / "wandb").glob("offline-run-*")):
        for record in finished_records(folder):
            if record.HasField("run"):
                runs.append(record.run)
                settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            for item in record.history.item:
                name = item.key or ".".join(item.nested_key)
                if not name.startswith("_"):
                    assert name not in steps[record.history.step.num], "sent twice"
                    steps[record.history.step.num][name] = json.loads(item.value_json)
    return runs, steps, settings


def test_wandb_offline_has_each_step_once_in_one_run(services: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    run = services / "street"
    notices = log_interrupted_run(run, "wandb")
    runs, steps, settings = wandb_content(run)
    assert {record.run_id for record in runs} == {json.loads((run / "logger_runs.json").read_text())["wandb"]}
    assert {(record.display_name, record.project) for record in runs} == {("street", "gtsa-kit")}
    assert settings["optim.lr"] == 0.25
    assert settings["train.steps"] == 6
    assert [(step, values["loss"]) for step, values in sorted(steps.items()) if "loss" in values] == ONCE
    assert steps[2]["region"] == -12.0
    assert [step for step, values in steps.items() if "knn_accuracy" in values] == [3]
    name = "feature_colors.path"
    pictures = {step: values[name] for step, values in steps.items() if name in values}
    assert pictures.keys() == {0, 6}
    for step, pixels in ((0, PIXELS), (6, PIXELS[::-1])):
        file = next(run.glob(f"wandb/*/files/{pictures[step]}"))
        assert np.array_equal(np.asarray(Image.open(file)), pixels)
    assert len(notices) == 2
    assert all("wandb sync" in notice and "offline-run" in notice for notice in notices)
    assert not (run / "tensorboard").exists()


def mlflow_points(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))


def test_mlflow_has_each_step_once_in_one_run(services: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    run = services / "street"
    notices = log_interrupted_run(run, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=(run / "mlruns").as_uri())
    recorded = client.search_runs([client.get_experiment_by_name("gtsa-kit").experiment_id])
    assert len(recorded) == 1
    run_id, data = recorded[0].info.run_id, recorded[0].data
    assert recorded[0].info.run_name == "street"
    assert recorded[0].info.status == "FINISHED"
    assert mlflow_points(client, run_id, "loss") == ONCE
    assert mlflow_points(client, run_id, "knn_accuracy") == [(3, 0.5)]
    flat = {"optim.lr": "0.25", "train.steps": "5", "method": "gtsa", "train.probe": "", "train.logger": '["mlflow"]'}
    assert {key: data.params[key] for key in flat} == flat
    assert data.tags["train.steps"] == "6", "a changed setting, since parameters are final"
    assert "optim.lr" not in data.tags
    names = [file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png")]
    by_step = {int(name.split("+step+")[1].split("+")[0]): name for name in names}
    assert by_step.keys() == {0, 6}
    folder = Path(recorded[0].info.artifact_uri.removeprefix("file://"))
    assert np.array_equal(np.asarray(Image.open(folder / by_step[6])), PIXELS[::-1])
    assert notices == [f"mlflow: run {run_id} in {run / 'mlruns'}"] * 2


def test_a_server_that_is_named_gets_the_run(services: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    store, run = services / "store", services / "run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "streets")
    run.mkdir()
    logs = open_logs(run, 0, load_config(overrides={"train.logger": "mlflow"}), [])
    logs.log_step(metrics(1, 1.0))
    logs.close()
    client = mlflow.MlflowClient()
    (recorded,) = client.search_runs([client.get_experiment_by_name("streets").experiment_id])
    assert recorded.info.status == "KILLED", "not finished"
    assert recorded.data.metrics["loss"] == 1.0
    assert not (run / "mlruns").exists()


class Failing:
    """Logger whose server goes away after the first step."""

    notice = ""

    def __init__(self, error: Exception) -> None:
        self.error, self.steps = error, list[int]()

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        self.steps.append(step)
        if step > 1:
            raise self.error

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        raise self.error

    def close(self, finished: bool) -> None:
        raise self.error


def test_a_logger_that_fails_is_reported_once_and_the_others_go_on() -> None:
    notices: list[str] = []
    group, failing, recording = LoggerGroup(notices.append), Failing(ConnectionError("no\nroute")), Recording()
    group.add("mlflow", failing)
    group.add("wandb", recording)
    for step in (1, 2, 3):
        group.log_scalars({"loss": 1.0}, step)
    group.log_image("x", PIXELS, 3)
    group.close(finished=True)
    assert failing.steps == [1, 2]
    assert recording.steps == [1, 2, 3, 3]
    assert recording.finished
    assert notices == ["the logger mlflow has failed and gets nothing more; the run goes on: no route"]


class Recording:
    notice = ""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.finished = False

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        self.steps.append(step)

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.steps.append(step)

    def close(self, finished: bool) -> None:
        self.finished = finished


def test_a_request_to_mlflow_that_fails_is_reported_at_the_next_one(
    services: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    run, notices = services / "run", list[str]()
    run.mkdir()
    logs = open_logs(run, 0, load_config(overrides={"train.logger": "mlflow"}), notices)
    calls: list[int] = []

    def log_batch(client: Any, run_id: str, metrics: Any) -> None:
        calls.append(metrics[0].step)
        raise mlflow.exceptions.MlflowException("the server is down")

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    for step in range(1, 9):
        logs.log_step(metrics(step, 1.0))
    logs.close()
    assert len([notice for notice in notices if "the server is down" in notice]) == 1
    assert len(read_json_lines(run / "metrics.jsonl")) == 8


def test_a_server_that_does_not_answer_ends_a_new_run_before_its_first_step(
    services: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config, notices = load_config(overrides={"train.logger": "mlflow"}), list[str]()
    with pytest.raises(ValueError, match=r"can't be opened: .*127\.0\.0\.1.*; check MLFLOW_TRACKING_URI, or choose"):
        open_logs(services, 0, config, notices)
    open_logs(services, 3, config, notices).close()
    assert [notice.partition(":")[0] for notice in notices] == [
        "the logger mlflow can't be opened, the run goes on without it"
    ]


def test_a_new_run_needs_its_loggers_and_a_resumed_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "CLASSES", {"tensorboard": "Missing"})
    config, notices = RunConfig(), list[str]()
    with pytest.raises(ValueError, match=r"the logger tensorboard can't be opened: .*; omit it with --logger none"):
        open_logs(tmp_path, 0, config, notices)
    assert notices == []
    logs = open_logs(tmp_path, 3, config, notices)
    logs.log_step(metrics(4, 1.0))
    logs.close()
    assert len(notices) == 1
    assert "the run goes on without it" in notices[0]
    assert notices[0] in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("none", ()),
        ("wandb", ("wandb",)),
        ("mlflow, wandb,mlflow", ("mlflow", "wandb")),
        (["tensorboard"], ("tensorboard",)),
        ([], ()),
    ],
)
def test_the_setting_takes_names(value: object, names: tuple[str, ...]) -> None:
    config = load_config(overrides={"train.logger": value})
    assert config.train.logger == names
    assert RunConfig.model_validate(config.model_dump(mode="json")).train.logger == names
    assert load_finetune_config("segment", overrides={"train.logger": value}).train.logger == names


@pytest.mark.parametrize("value", ["wandbb", "none,wandb", "", None, 3, [["wandb"]]])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"train\.logger can't be .*; choose tensorboard, wandb, mlflow, several"):
        load_config(overrides={"train.logger": value})


@pytest.mark.parametrize("command", ["train", "finetune classify"])
def test_a_missing_package_ends_the_command_before_training(
    command: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gtsa_here: Any
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(opening, "find_spec", lambda name: None if name == "wandb" else find_spec(name))
    with pytest.raises(ValueError, match=r"pip install 'gtsa-kit\[wandb\]'"):
        require_loggers(["tensorboard", "wandb"])
    out = tmp_path / "run"
    weights = ["--random", "vit_test"] if command != "train" else []
    done = gtsa_here(*command.split(), images, *weights, "--logger", "wandb,tensorboard", "--out", out)
    assert done.returncode == 2
    assert "the logger wandb is not installed\n  hint: pip install 'gtsa-kit[wandb]'" in done.stderr
    assert not out.exists()


def test_processes_but_the_first_one_log_nothing(tmp_path: Path) -> None:
    other = cast(Fabric, SimpleNamespace(is_global_zero=False, broadcast=lambda value: (None, None)))
    assert open_run_logger(other, tmp_path, 0, RunConfig(), pytest.fail, ()) is None
    assert list(tmp_path.iterdir()) == []


def test_a_run_logs_with_the_loggers_of_its_settings(images: Path, services: Path) -> None:
    """A resumed run keeps them; rows, probe values and pictures are those of the run folder."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    run = services / "run"
    config = load_config(overrides={**TINY, "data": str(images), "train.steps": 2, "train.logger": "mlflow"})
    assert train(config, run, False, TrainerCallback())
    saved = load_config(file=run / "config.yaml")
    assert saved.train.logger == ("mlflow",)
    client = mlflow.MlflowClient(tracking_uri=(run / "mlruns").as_uri())
    (recorded,) = client.search_runs([client.get_experiment_by_name("gtsa-kit").experiment_id])
    assert recorded.info.status == "FINISHED"
    rows = read_json_lines(run / "metrics.jsonl")
    assert mlflow_points(client, recorded.info.run_id, "region") == [(row["step"], row["region"]) for row in rows]
    images_logged = [file.path for file in client.list_artifacts(recorded.info.run_id, "images")]
    assert len([name for name in images_logged if "feature_colors" in name and name.endswith(".png")]) == 2
