"""What the routes share."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from gtsa_kit.export import Runner
from gtsa_kit.service.admission import Pending, Place
from gtsa_kit.service.extract import Extractor
from gtsa_kit.service.metrics import Metrics
from gtsa_kit.service.query_cache import KnownQueries
from gtsa_kit.service.settings import Settings

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody waits for the answer."""


@dataclass(frozen=True)
class Service:
    """The model and everything around it, for as long as the process serves."""

    settings: Settings
    runner: Runner
    extractor: Extractor
    pending: Pending
    metrics: Metrics
    known: KnownQueries

    def about_model(self) -> dict[str, Any]:
        """What an answer says of the model: `sha256` is of the weights that the artifact was exported from."""
        manifest = self.runner.manifest
        return {
            "id": self.model_id,
            "sha256": manifest.source_sha256,
            "architecture": manifest.architecture["name"],
            "format": manifest.format,
            "precision": manifest.precision,
        }

    @property
    def model_id(self) -> str:
        """A name for logs and clients."""
        manifest = self.runner.manifest
        return f"{manifest.architecture['name']}-{manifest.source_sha256[:12]}-{manifest.precision}"


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def place_of(request: Request) -> Place:
    """What a request holds of the bound on what is pending."""
    place = request.state.place
    assert isinstance(place, Place)
    return place


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do it, unless the client goes away meanwhile; call this when the body has been read.

    Raises:
        ClientGone: It did; what was not begun is not done.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watching.cancel()
