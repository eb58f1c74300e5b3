"""Runs whose heads belong to the encoder of the tests' service, and a service with them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gtsa_kit.export import Runner
from gtsa_kit.models.task_model import load_task_model, save_task_model
from gtsa_kit.models.task_spec import Label, TaskSpec
from gtsa_kit.models.weights import weights_digest
from gtsa_kit.tasks.heads import Head, check_head, open_head
from helpers.running_service import RunningService, ServiceFactory
from helpers.task_models import random_task_model, task_spec

TWO = (Label(1, "sound", (0, 0, 0)), Label(2, "crack", (255, 0, 0)))


@pytest.fixture(scope="session")
def head_runs(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs with the weights of the served encoder, and heads of their own."""
    from gtsa_kit.export.source import open_source

    folder = tmp_path_factory.mktemp("heads")
    weights = open_source(artifact).encoder.vit.state_dict()
    specs = {
        "road": task_spec("linear"),
        "defects": TaskSpec("segment", TWO, "linear", layers=(0, 1)),
        "weather": task_spec("classify"),
    }
    for seed, (name, spec) in enumerate(specs.items()):
        model = random_task_model(spec, seed=seed)
        model.encoder.vit.load_state_dict(weights)
        (folder / name).mkdir()
        save_task_model(folder / name, model, {})
    return {name: folder / name for name in specs}


def open_heads(runs: dict[str, Path], runner: Runner, digest: str) -> list[Head]:
    """Open heads and check that they belong to an encoder."""
    heads = [open_head(name, path, "cpu") for name, path in runs.items()]
    for head in heads:
        check_head(head, runner.manifest.model_copy(update={"weights_sha256": digest}))
    return heads


@pytest.fixture(scope="session")
def digest(head_runs: dict[str, Path]) -> str:
    return weights_digest(dict(load_task_model(head_runs["road"]).encoder.vit.state_dict()))


@pytest.fixture(scope="session")
def heads_service(
    start_service: ServiceFactory, head_runs: dict[str, Path], runner: Runner, digest: str
) -> Iterator[RunningService]:
    with start_service(heads=open_heads(head_runs, runner, digest)) as running:
        yield running
        assert running.drains(), running.limiter
