"""Routes that compute nothing: health, readiness, metrics, the model, the API reference and the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gtsa_kit.service.decoding import input_info
from gtsa_kit.service.errors import APIError
from gtsa_kit.service.openapi_page import render_openapi
from gtsa_kit.service.schemas import InputEntry, ModelEntry, ModelList, ServiceStatus, error_responses
from gtsa_kit.service.state import ServiceState, get_state

router = APIRouter(redirect_slashes=False)
ERRORS = error_responses(401)
PAGE_FOLDER: Final = Path(__file__).parent / "page"
PAGE_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/features.js": ("features.js", "text/javascript; charset=utf-8"),
    "/detections.js": ("detections.js", "text/javascript; charset=utf-8"),
    "/prediction.js": ("prediction.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""File name and media type of each file of the page, by path."""


@router.get("/health", summary="Liveness probe", responses=error_responses(503))
async def health(request: Request) -> ServiceStatus:
    """Return 200 while the process can compute features; needs no token."""
    if not get_state(request).extractor.batcher.alive:
        raise APIError(503, "unhealthy", "the batch scheduler has ended; restart the service")
    return ServiceStatus(status="ok")


@router.get("/ready", summary="Readiness probe", responses=error_responses(503))
async def ready(request: Request) -> ServiceStatus:
    """Return 200 while the service accepts requests, 503 while it shuts down; needs no token."""
    if get_state(request).limiter.draining:
        raise APIError(503, "draining", "the service is shutting down")
    return ServiceStatus(status="ready")


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse, responses=ERRORS)
async def metrics(request: Request) -> PlainTextResponse:
    """Return counters and histograms in Prometheus' text format."""
    state = get_state(request)
    state.metrics.set_gauges(state.limiter.images, state.limiter.bytes, state.extractor.batcher.queued)
    return PlainTextResponse(state.metrics.to_text(), media_type="text/plain; version=0.0.4")


@router.get("/v1/model", summary="The artifact's manifest, and the limits of the service", responses=ERRORS)
async def model(request: Request) -> dict[str, Any]:
    """Return the manifest (architecture, sizes, outputs, preprocessing, parity) and the limits of the service.

    `input` has the number of channels, the type of their samples, and the content types of images;
    `display_channels`, counted from 1, are those of pictures, none for 8-bit RGB.
    """
    state = get_state(request)
    settings = state.settings
    limits = {"max_batch": state.extractor.batcher.max_batch} | {
        name: getattr(settings, name)
        for name in ("max_pending", "max_image_mb", "max_request_mb", "max_pixels", "max_size")
    }
    manifest = state.model.manifest.model_dump(mode="json")
    info = {**state.model_info(), "provider": state.model.provider, "tasks": state.task_info()}
    info["input"] = input_info(state.model.preprocessing)
    info["display_channels"] = [index + 1 for index in state.display_channels]
    return {**info, "features": state.model.has_features, "limits": limits, "manifest": manifest}


@router.get("/v1/models", summary="The model, for OpenAI's clients", responses=ERRORS)
async def models(request: Request) -> ModelList:
    """Return the one model of the service; `model` of a request to /v1/embeddings may have any value."""
    return ModelList(data=[list_model(get_state(request))])


@router.get("/v1/models/{model_id}", summary="The model, for OpenAI's clients", responses=error_responses(401, 404))
async def model_by_id(request: Request, model_id: str) -> ModelEntry:
    """Return the model if it has this identifier."""
    entry = list_model(get_state(request))
    if model_id != entry.id:
        raise APIError(404, "model_not_found", f"this service has one model, {entry.id}", "model")
    return entry


def list_model(state: ServiceState) -> ModelEntry:
    """Return the model as OpenAI's interface lists it."""
    dim = state.model.manifest.dim if state.model.has_features else None
    taken = InputEntry(**input_info(state.model.preprocessing))
    info = {**state.model_info(), "tasks": state.task_info(), "input": taken}
    return ModelEntry(**info, created=state.created, dimensions=dim)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """Return the API reference as HTML."""
    return Response(render_openapi(request.app.openapi()), media_type="text/html; charset=utf-8")


@dataclass(frozen=True)
class StaticFile:
    """Endpoint that returns a file from memory, so that no requested path reaches the disk."""

    content: bytes
    media_type: str

    async def __call__(self, request: Request) -> Response:
        """Return the file."""
        return Response(self.content, media_type=self.media_type, headers={"Cache-Control": "no-cache"})


def load_page_files() -> Mapping[str, StaticFile]:
    """Read the files of the page, by path."""
    return {path: StaticFile((PAGE_FOLDER / name).read_bytes(), kind) for path, (name, kind) in PAGE_FILES.items()}
