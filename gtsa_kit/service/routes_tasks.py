"""Routes of tasks: masks, classes and detections of images."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from gtsa_kit.service.errors import APIError, invalid_parameter
from gtsa_kit.service.extract import RequestTiming
from gtsa_kit.service.query import refuse_repeated
from gtsa_kit.service.request_bodies import image_request_body
from gtsa_kit.service.request_parsing import JSON
from gtsa_kit.service.responses import build_response
from gtsa_kit.service.schemas import error_responses, mask_responses
from gtsa_kit.service.serialization import ImageResult
from gtsa_kit.service.state import cancel_on_disconnect, get_reservation, get_state
from gtsa_kit.service.task_query import (
    ClassifyQuery,
    DetectQuery,
    SegmentQuery,
    TaskQuery,
    TaskRequest,
    parse_task_request,
)
from gtsa_kit.service.uploads import read_images

router = APIRouter(redirect_slashes=False)
ERRORS = error_responses(400, 401, 404, 408, 413, 415, 422, 503)
PNG = "image/png"


@router.post(
    "/v1/segment",
    summary="The class of every pixel",
    response_class=Response,
    responses={**mask_responses("The mask of the upright image, in its own size", PNG), **ERRORS},
    openapi_extra=image_request_body(),
)
async def segment(request: Request, query: Annotated[SegmentQuery, Query()]) -> Response:
    """Return the mask of one image (the body), or of several (multipart, or `{"images": [base64, ...]}`).

    `classes` of the metadata lists the classes in the mask with their shares. Pixels of a png have the value `pixel` of
    their class; in npz and safetensors, `mask` (H, W) holds the class numbers. Without `head`, all heads for pixels
    answer: with several of them, `heads` holds the metadata of each, and names of arrays begin with `{head}.`. For
    several images, names begin with `{index}.`.
    """
    return await _predict(request, query)


@router.post(
    "/v1/classify",
    summary="The class of an image",
    response_class=Response,
    responses={**mask_responses("The most probable classes", JSON), **ERRORS},
    openapi_extra=image_request_body(),
)
async def classify(request: Request, query: Annotated[ClassifyQuery, Query()]) -> Response:
    """Return the most probable classes of one image (the body), or of several, as /v1/segment takes them."""
    return await _predict(request, query)


@router.post(
    "/v1/detect",
    summary="The objects in an image",
    response_class=Response,
    responses={**mask_responses("The detections, the highest score first", JSON, PNG), **ERRORS},
    openapi_extra=image_request_body(),
)
async def detect(request: Request, query: Annotated[DetectQuery, Query()]) -> Response:
    """Return the objects in one image (the body), or in several, as /v1/segment takes them.

    `detections` of the metadata lists them with `label`, `id`, class `number`, `score` and `box`: x0, y0, x1, y1 in
    pixels of the upright image.
    """
    return await _predict(request, query)


async def _predict(request: Request, query: TaskQuery) -> Response:
    state, timing = get_state(request), RequestTiming()
    refuse_repeated(request.query_params.multi_items())
    task_request = parse_task_request(query, state.model, state.settings.max_size)
    uploads, multiple = await read_images(request, state, timing)
    if multiple and task_request.format == "png":
        raise invalid_parameter("format", "a png holds one image; send it as the body, or choose another")
    reservation = get_reservation(request)
    reservation.acquire(images=len(uploads) - 1)
    predictor = state.predictor
    if multiple:
        work = predictor.predict_all(uploads, task_request, timing, reservation)
        results = await cancel_on_disconnect(request, work)
    else:
        one = predictor.predict(uploads[0], task_request, timing, reservation)
        results = [await cancel_on_disconnect(request, one)]
    if all(result.failed for result in results):
        items = [result.metadata for result in results]
        raise APIError(422, "no_valid_image", "none of the images can be used", "image", items=items)
    return await _respond(request, task_request, results, multiple, timing)


async def _respond(
    request: Request, task_request: TaskRequest, results: Sequence[ImageResult], multiple: bool, timing: RequestTiming
) -> Response:
    if task_request.format == "png":
        get_state(request).limiter.record_completion(1)
        headers: dict[str, Any] = {"Server-Timing": timing.header()}
        return Response(results[0].arrays["png"].tobytes(), media_type=PNG, headers=headers)
    response_format = "json" if task_request.format == "rle" else task_request.format
    return await build_response(request, response_format, results, multiple, timing)
