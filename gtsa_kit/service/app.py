"""ASGI application of the service: routes, error handlers and middleware around an opened artifact."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import numpy as np
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gtsa_kit.export import Runner
from gtsa_kit.export.layout import CHANNELS
from gtsa_kit.models.pictures import parse_display_channels
from gtsa_kit.service import routes_features, routes_info, routes_pictures, routes_tasks
from gtsa_kit.service.admission import AdmissionLimiter
from gtsa_kit.service.decoding import describe_input, input_types
from gtsa_kit.service.errors import APIError, invalid_parameter
from gtsa_kit.service.extract import FeatureExtractor
from gtsa_kit.service.metrics import ServiceMetrics
from gtsa_kit.service.middleware import (
    CLIENT_CLOSED_REQUEST,
    AdmissionMiddleware,
    RequestMiddleware,
    RootPathMiddleware,
    TokenMiddleware,
)
from gtsa_kit.service.query import describe_validation_error
from gtsa_kit.service.request_bodies import keep_input_types
from gtsa_kit.service.samples import load_samples
from gtsa_kit.service.served_model import ServedModel
from gtsa_kit.service.settings import ServiceSettings
from gtsa_kit.service.state import ClientDisconnected, ServiceState, get_state
from gtsa_kit.service.task_extract import TaskExtractor
from gtsa_kit.tasks.heads import Head
from gtsa_kit.tasks.predictor import Predictor

DESCRIPTION: Final = "Dense features of images: embeddings, feature maps, boxes, points, similarity. Masks and classes."
HTTP_ERRORS: Final = {
    404: ("not_found", "this path does not exist; /docs lists the paths"),
    405: ("method_not_allowed", "this path does not allow the method"),
}
"""Error code and message by status, for errors that Starlette's router raises."""


def create_app(
    opened: Runner | Predictor, settings: ServiceSettings, heads: Sequence[Head] = ()
) -> tuple[ASGIApp, AdmissionLimiter]:
    """Return the application that serves an opened artifact, and its admission limiter.

    Args:
        opened: An encoder or a task model.
        settings: Limits and resources.
        heads: Heads beside an encoder.

    Raises:
        ValueError: `settings.show` names no channels of the model.
    """
    metrics = ServiceMetrics()
    limiter = AdmissionLimiter(settings.max_pending, settings.max_pending_bytes)
    model = ServedModel(opened, heads)
    extractor = FeatureExtractor(model, settings, metrics)
    created = int(settings.artifact.stat().st_mtime)
    display_channels = parse_display_channels(settings.show, model.preprocessing)
    predictor = TaskExtractor(extractor, display_channels)
    samples = load_samples(settings.samples, model.preprocessing, display_channels, settings.max_image_bytes)
    state = ServiceState(settings, model, extractor, predictor, limiter, metrics, samples, display_channels, created)
    api = create_api(state)
    app: ASGIApp = AdmissionMiddleware(api, limiter, metrics)
    if settings.token is not None:
        app = TokenMiddleware(app, settings.token)
    if settings.cors:  # outside of the token: a browser sends none with its question whether a request is allowed
        app = allow_origins(app, settings.cors)
    paths = frozenset({*api.openapi()["paths"], *routes_info.PAGE_FILES, "/docs"})
    if settings.root_path:
        app = RootPathMiddleware(app, settings.root_path)
    return RequestMiddleware(app, metrics, paths, settings.root_path), limiter


def allow_origins(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Return the application with the headers that let web pages of these origins use it."""
    exposed = ("Retry-After", "Server-Timing")
    return CORSMiddleware(app, origins, allow_methods=("GET", "POST"), allow_headers=("*",), expose_headers=exposed)


def create_api(state: ServiceState) -> FastAPI:
    """Return the routes and error handlers, without the middleware."""

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        await state.extractor.run_in_pool(warm_up, state.model)
        yield
        await state.extractor.close()

    api = FastAPI(
        title="gtsa-kit",
        description=f"{DESCRIPTION} Images: {describe_input(state.model.preprocessing)}.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        servers=[{"url": state.settings.root_path}] if state.settings.root_path else None,
        lifespan=lifespan,
    )
    api.state.service = state
    api.include_router(routes_features.router)
    api.include_router(routes_tasks.router)
    api.include_router(routes_info.router)
    api.include_router(routes_pictures.router)
    for path, file in routes_info.load_page_files().items():
        api.add_api_route(path, file, include_in_schema=False)
    api.add_exception_handler(APIError, on_api_error)  # type: ignore[arg-type]
    api.add_exception_handler(RequestValidationError, on_validation_error)  # type: ignore[arg-type]
    api.add_exception_handler(HTTPException, on_http_error)  # type: ignore[arg-type]
    for kind in (ClientDisconnected, ClientDisconnect):  # after and while the body arrived
        api.add_exception_handler(kind, on_disconnect)
    api.add_exception_handler(Exception, on_unhandled)
    keep_input_types(api.openapi(), input_types(state.model.preprocessing))
    return api


async def on_api_error(request: Request, error: APIError) -> Response:
    """Count an error and return its response."""
    get_state(request).metrics.errors.labels(error.code).inc()
    return error.to_response()


async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
    """Return 422 for a query that FastAPI rejected."""
    first = error.errors()[0]
    name = str(first["loc"][1]) if len(first["loc"]) > 1 else "request"
    message = describe_validation_error(first["type"], first["msg"], first.get("ctx", {}))
    return await on_api_error(request, invalid_parameter(name[:100], message))


async def on_http_error(request: Request, error: HTTPException) -> Response:
    """Return the response to an unknown path or method."""
    code, message = HTTP_ERRORS.get(error.status_code, ("bad_request", "the request can't be answered"))
    return await on_api_error(request, APIError(error.status_code, code, message, headers=error.headers))


async def on_disconnect(request: Request, error: Exception) -> Response:
    """Return status 499 for the metrics; the client has disconnected and receives nothing."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def on_unhandled(request: Request, error: Exception) -> Response:
    """Return 500 without details; uvicorn logs the traceback."""
    return await on_api_error(request, APIError(500, "internal", "internal error; see the log of the service"))


def warm_up(model: ServedModel) -> None:
    """Run the model and its heads once, because the first call of many runtimes is slow."""
    side = model.nearest_size(model.preprocessing.size, model.preprocessing.size)
    axes = {"batch": 1, CHANNELS: model.manifest.channels, "height": side[0], "width": side[1]}
    shape = [axes[name] for name in model.manifest.input_axes]
    model(np.zeros(shape, dtype=model.manifest.inputs[0].dtype), [frozenset(model.heads)])
