"""The routes that tell: health, readiness, metrics, the model, the documents, the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gtsa_kit.service.errors import Refusal
from gtsa_kit.service.openapi_page import document
from gtsa_kit.service.schemas import Status, errors
from gtsa_kit.service.state import service_of

router = APIRouter(redirect_slashes=False)
UNKNOWN = errors(401)
PAGE: Final = Path(__file__).parent / "page"
PAGE_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/features.js": ("features.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@router.get("/health", summary="Whether the process lives", responses=errors(503))
async def health(request: Request) -> Status:
    """200 as long as the model's loop runs; open to all."""
    if not service_of(request).extractor.batcher.alive:
        raise Refusal(503, "not_alive", "the model's loop has ended; restart the service")
    return Status(status="ok")


@router.get("/ready", summary="Whether it takes requests", responses=errors(503))
async def ready(request: Request) -> Status:
    """503 when it is about to end; open to all."""
    if service_of(request).pending.draining:
        raise Refusal(503, "draining", "the service is about to end")
    return Status(status="ready")


@router.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse, responses=UNKNOWN)
async def metrics(request: Request) -> PlainTextResponse:
    """Counters and histograms in Prometheus' text format."""
    service = service_of(request)
    service.metrics.show(service.pending.images, service.pending.bytes, service.extractor.batcher.waiting)
    return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/v1/model", summary="The artifact's own account, and the service's limits", responses=UNKNOWN)
async def model(request: Request) -> dict[str, Any]:
    """The manifest: architecture, sizes, outputs, preprocessing, parity."""
    service = service_of(request)
    settings = service.settings
    limits = {
        name: getattr(settings, name)
        for name in ("max_batch", "max_pending", "max_image_mb", "max_request_mb", "max_pixels", "max_size")
    }
    return {**service.about_model(), "limits": limits, "manifest": service.runner.manifest.model_dump(mode="json")}


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The OpenAPI document, for people."""
    return Response(document(request.app.openapi()), media_type="text/html; charset=utf-8")


@dataclass(frozen=True)
class StaticFile:
    """In memory: no path of a request touches the disk."""

    content: bytes
    kind: str

    async def __call__(self, request: Request) -> Response:
        """The file."""
        return Response(self.content, media_type=self.kind, headers={"Cache-Control": "no-cache"})


def page_routes() -> Mapping[str, StaticFile]:
    """The page's files by path."""
    return {path: StaticFile((PAGE / name).read_bytes(), kind) for path, (name, kind) in PAGE_FILES.items()}


@router.get("/samples", include_in_schema=False)
async def samples(request: Request) -> JSONResponse:
    """Names of the images that the page offers."""
    return JSONResponse([sample.name for sample in request.app.state.samples])


@router.get("/samples/{index}", include_in_schema=False)
async def sample(request: Request, index: int) -> Response:
    """One of them, as JPEG."""
    found = request.app.state.samples
    if not 0 <= index < len(found):
        raise Refusal(404, "not_found", "there is no such sample", "index")
    return Response(found[index].content, media_type="image/jpeg", headers={"Cache-Control": "no-cache"})
