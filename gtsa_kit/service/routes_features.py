"""Routes that compute: features, similarity and embeddings."""

import base64
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from gtsa_kit.export.spec import EMBEDDING
from gtsa_kit.service.errors import APIError, invalid_parameter, unsupported_media_type
from gtsa_kit.service.extract import RequestTiming
from gtsa_kit.service.query import (
    FeatureRequest,
    FeaturesQuery,
    SimilarityQuery,
    parse_feature_request,
    parse_similarity_request,
    refuse_repeated,
)
from gtsa_kit.service.regions import cosine_similarity_map
from gtsa_kit.service.request_bodies import image_pair_request_body, image_request_body, json_request_body
from gtsa_kit.service.request_parsing import JSON, get_media_type, parse_base64_images, parse_json_body
from gtsa_kit.service.responses import build_response
from gtsa_kit.service.schemas import (
    EmbeddingItem,
    EmbeddingsBody,
    EmbeddingsResponse,
    Usage,
    array_responses,
    error_responses,
)
from gtsa_kit.service.serialization import ImageResult
from gtsa_kit.service.served_model import ServedModel
from gtsa_kit.service.state import ServiceState, cancel_on_disconnect, get_reservation, get_state
from gtsa_kit.service.uploads import read_image_pair, read_images, read_timed_body

router = APIRouter(redirect_slashes=False)
ERRORS = error_responses(400, 401, 404, 408, 413, 415, 422, 503)


@router.post(
    "/v1/features",
    summary="Embeddings and feature maps",
    response_class=Response,
    responses={**array_responses("Arrays by name, and their metadata under `metadata`"), **ERRORS},
    openapi_extra=image_request_body(),
)
async def features(request: Request, query: Annotated[FeaturesQuery, Query()]) -> Response:
    """Return features of one image (the body), or of several (multipart, or `{"images": [base64, ...]}`).

    Arrays are `embedding` (D), `feature_map` (D, h, w), `feature_map.boxes` (N, D, roi_size, roi_size) and
    `feature_map.points` (N, D). For several images each name begins with `{index}.`. An image that can't be used has an
    `error` in `items`, and the others are answered. `grid_to_pixel` (2, 3) maps a position (u, v, 1) on the feature
    map, in patches, to (x, y) in pixels of the image as stored in its file.
    """
    state, timing = get_state(request), RequestTiming()
    refuse_repeated(request.query_params.multi_items())
    feature_request = parse_feature_request(query, require_features(state), state.settings.max_size)
    uploads, multiple = await read_images(request, state, timing)
    reserve(request, state, [feature_request] * len(uploads))
    extractor = state.extractor
    if multiple:
        results = await cancel_on_disconnect(request, extractor.extract_all(uploads, feature_request, timing))
    else:
        results = [await cancel_on_disconnect(request, extractor.extract(uploads[0], feature_request, timing))]
    if all(result.failed for result in results):
        items = [result.metadata for result in results]
        raise APIError(422, "no_valid_image", "none of the images can be used", "image", items=items)
    return await build_response(request, query.format, results, multiple, timing)


@router.post(
    "/v1/similarity",
    summary="Similarity of a point or box to every patch of a second image",
    response_class=Response,
    responses={**array_responses("`similarity` (h, w): cosines over the second image"), **ERRORS},
    openapi_extra=image_pair_request_body(),
)
async def similarity(request: Request, query: Annotated[SimilarityQuery, Query()]) -> Response:
    """Return the cosine similarity of a point or box in the first image to every patch of the second.

    The features of a box are its mean.

    The images are two files of a multipart body, in this order, or `{"first": base64, "second": base64}`. `best` is the
    center of the most similar patch, in pixels of the second image.
    """
    state, timing = get_state(request), RequestTiming()
    refuse_repeated(request.query_params.multi_items())
    first_request, second_request = parse_similarity_request(query, require_features(state), state.settings.max_size)
    first_upload, second_upload = await read_image_pair(request, state, timing)
    reserve(request, state, [first_request, second_request])

    async def extract_both() -> tuple[ImageResult, ImageResult]:
        first = await state.extractor.extract_all([first_upload], first_request, timing)
        second = await state.extractor.extract_all([second_upload], second_request, timing)
        return first[0], second[0]

    first, second = await cancel_on_disconnect(request, extract_both())
    for name, result in (("first", first), ("second", second)):
        if result.failed:
            error = result.metadata["error"]
            field = error["param"] if error["param"] in first_request.parameter_names else name
            raise APIError(result.metadata["status"], error["code"], f"{name}: {error['message']}", field)
    return await build_response(request, query.format, [compare(first, second, query)], False, timing)


def require_features(state: ServiceState) -> ServedModel:
    """Return the model if it computes features.

    Raises:
        APIError: 404, it is a task model.
    """
    if not state.model.has_features:
        paths = ", ".join(f"/v1/{head.task}" for head in state.model.heads.values())
        raise APIError(404, "no_features", f"this model is fine-tuned and returns no features; it answers {paths}")
    return state.model


def compare(first: ImageResult, second: ImageResult, query: SimilarityQuery) -> ImageResult:
    """Return the cosine map over the second image, and its maximum."""
    vector = (
        first.arrays[f"{query.output}.points"][0]
        if query.point is not None
        else first.arrays[f"{query.output}.boxes"][0, :, 0, 0]
    )
    cosines = cosine_similarity_map(vector, second.arrays[query.output])
    row, column = np.unravel_index(int(cosines.argmax()), cosines.shape)
    x, y = np.array(second.metadata["grid_to_pixel"]) @ [column + 0.5, row + 0.5, 1]
    metadata = {name: value for name, value in second.metadata.items() if name not in ("name", "status")}
    best = {"x": float(x), "y": float(y), "cosine": float(cosines[row, column])}
    return ImageResult({**metadata, "best": best}, {"similarity": cosines.astype(query.dtype)})


@router.post(
    "/v1/embeddings",
    summary="Embeddings for OpenAI's clients",
    responses=ERRORS,
    openapi_extra=json_request_body(EmbeddingsBody),
    response_model=EmbeddingsResponse,
)
async def embeddings(request: Request) -> Response:
    """Return one vector per image; `input` is an image in base64 or a data URI, or a list of them.

    As in OpenAI's interface, and unlike /v1/features, one invalid image fails the request, because the vectors would
    otherwise not match the images by index.
    """
    state, timing = get_state(request), RequestTiming()
    if get_media_type(request) != JSON:
        raise unsupported_media_type(f"send {JSON}")
    extractor = state.extractor
    reservation = get_reservation(request)
    body = await read_timed_body(request, state, timing, state.settings.max_request_bytes)
    reservation.acquire(size=2 * len(body))
    parsed = await extractor.run_in_pool(parse_json_body, EmbeddingsBody, body)
    dim = require_features(state).manifest.dim
    if parsed.dimensions not in (None, dim):
        raise invalid_parameter("dimensions", f"the vectors of this model have {dim} dimensions")
    uploads = await extractor.run_in_pool(parse_base64_images, parsed.input, state.settings.max_image_bytes, "input")
    query = FeaturesQuery(outputs=EMBEDDING, dtype="float32")
    feature_request = parse_feature_request(query, require_features(state), max_size=1 << 30)
    reserve(request, state, [feature_request] * len(uploads))
    results = await cancel_on_disconnect(request, extractor.extract_all(uploads, feature_request, timing))
    for result in results:
        if result.failed:
            error, name = result.metadata["error"], result.metadata["name"]
            message = error["message"].removeprefix(f"{name}: ")
            raise APIError(result.metadata["status"], error["code"], f"{name}: {message}", name)
    content = await extractor.run_in_pool(
        encode_embeddings, results, parsed.encoding_format == "base64", state.model_id
    )
    return Response(content, media_type=JSON, headers={"Server-Timing": timing.header()})


def encode_embeddings(results: Sequence[ImageResult], as_base64: bool, model_id: str) -> bytes:
    """Return the body of an `EmbeddingsResponse`."""
    data = []
    for i, result in enumerate(results):
        vector = result.arrays[EMBEDDING]
        values = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()
        data.append(EmbeddingItem(index=i, embedding=values))
    tokens = sum(int(np.prod(result.metadata["grid"])) for result in results)
    usage = Usage(prompt_tokens=tokens, total_tokens=tokens)
    return EmbeddingsResponse(data=data, model=model_id, usage=usage).model_dump_json().encode()


def reserve(request: Request, state: ServiceState, feature_requests: Sequence[FeatureRequest]) -> None:
    """Reserve the images beyond the first, which the middleware has reserved, and the memory of all.

    Raises:
        APIError: 413 or 503, the request does not fit; see `Reservation.acquire`.
    """
    size = sum(map(state.extractor.memory_bytes, feature_requests))
    get_reservation(request).acquire(images=len(feature_requests) - 1, size=size)
