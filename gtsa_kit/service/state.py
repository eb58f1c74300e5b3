"""Objects that the routes share, and the cancellation of work whose client has disconnected."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from gtsa_kit.service.admission import AdmissionLimiter, Reservation
from gtsa_kit.service.extract import FeatureExtractor
from gtsa_kit.service.metrics import ServiceMetrics
from gtsa_kit.service.samples import Sample
from gtsa_kit.service.served_model import ServedModel
from gtsa_kit.service.settings import ServiceSettings
from gtsa_kit.service.task_extract import TaskExtractor
from gtsa_kit.tasks.predict_rows import describe_labels

T = TypeVar("T")


class ClientDisconnected(Exception):
    """Raised when the client closes the connection before its request is answered."""


@dataclass(frozen=True)
class ServiceState:
    """Model, limits and metrics of one serving process."""

    settings: ServiceSettings
    model: ServedModel
    extractor: FeatureExtractor
    predictor: TaskExtractor
    limiter: AdmissionLimiter
    metrics: ServiceMetrics
    samples: tuple[Sample, ...]
    """Sample images of the page."""
    display_channels: tuple[int, ...]
    """Channels that pictures show; () for 8-bit RGB."""
    created: int
    """Time at which the artifact was written, in seconds since 1970."""

    def model_info(self) -> dict[str, Any]:
        """Return the `model` entry of responses; `sha256` is the hash of the source weights."""
        manifest = self.model.manifest
        return {
            "id": self.model_id,
            "sha256": manifest.source_sha256,
            "architecture": manifest.architecture["name"],
            "format": manifest.format,
            "precision": manifest.precision,
        }

    def task_info(self) -> dict[str, Any]:
        """Return the tasks of the model by the name of their head: task, labels, and the short side of inputs."""
        return {
            name: {"task": head.task, "labels": describe_labels(head.task, head.labels), "short_side": head.short_side}
            for name, head in self.model.heads.items()
        }

    @property
    def model_id(self) -> str:
        """Short name of the model: architecture, hash of the weights and precision."""
        manifest = self.model.manifest
        return f"{manifest.architecture['name']}-{manifest.source_sha256[:12]}-{manifest.precision}"


def get_state(request: Request) -> ServiceState:
    """Return the state of the application that handles a request."""
    state = request.app.state.service
    assert isinstance(state, ServiceState)
    return state


def get_reservation(request: Request) -> Reservation:
    """Return the reservation that the admission middleware attached to a request."""
    reservation = request.state.reservation
    assert isinstance(reservation, Reservation)
    return reservation


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work` and cancel it if the client disconnects; call this when the body has been read.

    Raises:
        ClientDisconnected: The client closed the connection. Steps that had not started are skipped.
    """
    task = asyncio.current_task()
    assert task is not None
    disconnected = False

    async def watch() -> None:
        nonlocal disconnected
        while (await request.receive())["type"] != "http.disconnect":
            pass
        disconnected = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if disconnected and task.uncancel() == 0:
            raise ClientDisconnected from None
        raise
    finally:
        watcher.cancel()
