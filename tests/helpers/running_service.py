"""A tiny artifact, the offline runner as the oracle, and services on loopback in threads of this process."""

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
from gtsa_kit.service.admission import Pending
from gtsa_kit.service.app import create_app
from gtsa_kit.service.server import DrainingServer, configure, listen
from gtsa_kit.service.settings import Settings


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny encoder."""
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
    """With maps of both blocks; for the services and as the oracle: calls don't know of each other."""
    source, options = open_source(artifact), ExportOptions(layers=(0, 1))
    manifest = build_manifest(source.encoder, "pytorch", options, {}, source.sha256)
    return TorchRunner(ExportGraph(source.encoder, options), manifest, torch.device("cpu"))


class Slow(Runner):
    """A runner that takes a while for each batch, however small the model."""

    def __init__(self, runner: Runner, seconds: float) -> None:
        self.runner, self.seconds = runner, seconds
        self.manifest, self.provider = runner.manifest, "slow"
        self.batches: list[tuple[int, ...]] = []

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        self.batches.append(images.shape)
        time.sleep(self.seconds)
        return self.runner._run(images)


@dataclass(frozen=True)
class Served:
    """A service that runs."""

    url: str
    port: int
    pending: Pending
    server: DrainingServer

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def empties(self, seconds: float = 10.0) -> bool:
        """Whether nothing is pending, within a while."""
        return wait_for(lambda: self.pending.images == 0 and self.pending.bytes == 0, seconds)


Serving = Callable[..., AbstractContextManager[Served]]


def wait_for(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.01)
    return False


@contextmanager
def serve_in_thread(runner: Runner, settings: Settings) -> Iterator[Served]:
    app, pending = create_app(runner, settings)
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    server = DrainingServer(configure(app, settings), lambda: None)
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    try:
        assert wait_for(lambda: server.started, 30)
        yield Served(f"http://127.0.0.1:{port}", port, pending, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serving(runner: Runner, artifact: Path) -> Serving:
    """`with serving(max_pending=3) as served:`, with another runner if the test has one."""
    base = Settings(artifact)

    def start(with_runner: Runner | None = None, **changes: Any) -> AbstractContextManager[Served]:
        return serve_in_thread(with_runner or runner, dataclasses.replace(base, **changes))

    return start


@pytest.fixture(scope="session")
def served(serving: Serving) -> Iterator[Served]:
    """The service as it comes, for all tests that leave it as it is."""
    with serving() as running:
        yield running
        assert running.empties(), running.pending
