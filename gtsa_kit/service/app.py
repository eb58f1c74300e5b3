"""The application: routes behind guards, around an opened artifact."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import numpy as np
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gtsa_kit.export import Runner
from gtsa_kit.service import routes_features as compute
from gtsa_kit.service import routes_info as look
from gtsa_kit.service.admission import Pending
from gtsa_kit.service.errors import Refusal, invalid
from gtsa_kit.service.extract import Extractor
from gtsa_kit.service.metrics import Metrics
from gtsa_kit.service.middleware import CLIENT_GONE, Admission, Outer, TokenGuard
from gtsa_kit.service.query import explain
from gtsa_kit.service.query_cache import KnownQueries
from gtsa_kit.service.samples import load_samples
from gtsa_kit.service.settings import Settings
from gtsa_kit.service.state import ClientGone, Service

ABOUT: Final = "Dense features of images: embeddings, feature maps, boxes, points, similarity."
STATUS_WORDS: Final = {404: "there is nothing here; /docs lists what there is", 405: "this path takes other methods"}


def create_app(runner: Runner, settings: Settings) -> tuple[ASGIApp, Pending]:
    """The whole service around an opened artifact, and what it has taken on."""
    metrics = Metrics()
    pending = Pending(settings.max_pending, settings.pending_bytes)
    known = KnownQueries("/v1/features", compute.answer_features)
    service = Service(settings, runner, Extractor(runner, settings, metrics), pending, metrics, known)
    api = make_api(service)
    app: ASGIApp = Admission(api, pending, metrics)
    if settings.token is not None:
        app = TokenGuard(app, settings.token)
    return Outer(app, metrics, frozenset({*api.openapi()["paths"], *look.PAGE_FILES, "/docs"})), pending


def make_api(service: Service) -> FastAPI:
    """The routes, and one shape for every error."""

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        await service.extractor.in_pool(warm_up, service.runner)
        yield
        await service.extractor.close()

    api = FastAPI(
        title="gtsa-kit",
        description=ABOUT,
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    api.state.service = service
    api.state.samples = load_samples(service.settings.samples)
    api.router.routes.append(service.known)
    api.include_router(compute.router)
    api.include_router(look.router)
    for path, file in look.page_routes().items():
        api.add_api_route(path, file, include_in_schema=False)

    async def refuse(request: Request, refusal: Refusal) -> Response:
        service.metrics.errors.labels(refusal.code).inc()
        return refusal.response()

    async def refuse_parameters(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][1]) if len(first["loc"]) > 1 else "request"
        return await refuse(request, invalid(name[:100], explain(first["type"], first["msg"], first.get("ctx", {}))))

    async def refuse_path(request: Request, error: HTTPException) -> Response:
        message = STATUS_WORDS.get(error.status_code, "this can't be answered")
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return await refuse(request, Refusal(error.status_code, code, message, headers=error.headers))

    async def let_go(request: Request, error: ClientGone) -> Response:
        return Response(status_code=CLIENT_GONE)

    async def confess(request: Request, error: Exception) -> Response:
        return await refuse(request, Refusal(500, "internal", "the service failed; its log says how"))

    api.add_exception_handler(Refusal, refuse)  # type: ignore[arg-type]
    api.add_exception_handler(RequestValidationError, refuse_parameters)  # type: ignore[arg-type]
    api.add_exception_handler(HTTPException, refuse_path)  # type: ignore[arg-type]
    api.add_exception_handler(ClientGone, let_go)  # type: ignore[arg-type]
    api.add_exception_handler(Exception, confess)
    return api


def warm_up(runner: Runner) -> None:
    """The first call of many runtimes takes long; nobody should wait for it."""
    side = runner.nearest_size(runner.preprocessing.size, runner.preprocessing.size)
    layout = {"batch": runner.manifest.range_of("batch").min, "3": 3, "height": side[0], "width": side[1]}
    shape = [layout[name] for name in runner.manifest.input_layout]
    runner(np.zeros(shape, dtype=runner.manifest.inputs[0].dtype))
