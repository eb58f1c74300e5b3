"""Tiny artifact, its runner as the reference, and services on loopback in threads of this process."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from gtsa_kit.export import Runner
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.runtime.torch_runner import TorchRunner
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.weights import save_encoder
from gtsa_kit.service.admission import AdmissionLimiter
from gtsa_kit.service.app import create_app
from gtsa_kit.service.server import DrainingServer, build_uvicorn_config, listen
from gtsa_kit.service.settings import ServiceSettings
from gtsa_kit.tasks.heads import Head
from gtsa_kit.tasks.predictor import Predictor
from helpers.signals import WAIT_SECONDS


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights file of a tiny encoder."""
    run = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    encoder = Encoder("vit_test")
    with torch.no_grad():
        for parameter in encoder.vit.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.08)
    save_encoder(run, encoder.vit.state_dict(), "vit_test", {})
    return run / "encoder.safetensors"


@pytest.fixture(scope="session")
def runner(artifact: Path) -> Runner:
    """Return a runner with maps of both blocks and the class token, used by the services and as the reference."""
    source, options = open_source(artifact), ExportOptions(layers=(0, 1), class_token=True)
    manifest = build_manifest(source.encoder, "pytorch", options, {}, source.sha256)
    return TorchRunner(ExportGraph(source.encoder, options), manifest, torch.device("cpu"))


class SlowRunner(Runner):
    """Runner that takes a given time for each batch and records the shapes of the batches."""

    def __init__(self, runner: Runner, seconds: float) -> None:
        self.runner, self.seconds = runner, seconds
        self.manifest, self.provider = runner.manifest, "slow"
        self.batches: list[tuple[int, ...]] = []

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        self.batches.append(images.shape)
        time.sleep(self.seconds)
        return self.runner._run(images)


class GatedRunner(SlowRunner):
    """Runner whose batches wait until they are released; with `warm`, not the first one."""

    def __init__(self, runner: Runner, warm: bool = False) -> None:
        super().__init__(runner, 0.0)
        self.gate, self._warm = threading.Event(), warm
        self.threads: set[str] = set()

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        self.threads.add(threading.current_thread().name)
        self.batches.append(images.shape)
        warm, self._warm = self._warm, False
        assert warm or self.gate.wait(WAIT_SECONDS)
        return self.runner._run(images)


@dataclass(frozen=True)
class RunningService:
    """Address, limiter and server of a running service."""

    url: str
    port: int
    limiter: AdmissionLimiter
    server: DrainingServer

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=WAIT_SECONDS, **options)

    def drains(self, seconds: float = WAIT_SECONDS) -> bool:
        """Return True once no request is pending, False after `seconds`."""
        return wait_for(lambda: self.limiter.images == 0 and self.limiter.bytes == 0, seconds)


ServiceFactory = Callable[..., AbstractContextManager[RunningService]]


def wait_for(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


@contextmanager
def serve_in_thread(
    runner: Runner | Predictor, settings: ServiceSettings, heads: Sequence[Head] = ()
) -> Iterator[RunningService]:
    app, limiter = create_app(runner, settings, heads)
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    server = DrainingServer(build_uvicorn_config(app, settings), lambda: None)
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    try:
        assert wait_for(lambda: server.started, 30)
        yield RunningService(f"http://127.0.0.1:{port}", port, limiter, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def start_service(runner: Runner, artifact: Path) -> ServiceFactory:
    """Return a factory of services with changed settings: `with start_service(max_pending=3) as service:`."""
    base = ServiceSettings(artifact)

    def start(
        with_runner: Runner | Predictor | None = None, heads: Sequence[Head] = (), **changes: Any
    ) -> AbstractContextManager[RunningService]:
        return serve_in_thread(with_runner or runner, dataclasses.replace(base, **changes), heads)

    return start


@pytest.fixture(scope="session")
def service(start_service: ServiceFactory) -> Iterator[RunningService]:
    """Start a service with default settings, shared by the tests that do not change it."""
    with start_service() as running:
        yield running
        assert running.drains(), running.limiter
