"""The routes that compute: features, embeddings, similarity."""

import base64
import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from gtsa_kit.export.spec import EMBEDDING
from gtsa_kit.service.errors import Refusal, invalid, unsupported
from gtsa_kit.service.extract import Timing
from gtsa_kit.service.query import Ask, FeaturesQuery, SimilarityQuery, ask_features, ask_similarity
from gtsa_kit.service.regions import cosine_map
from gtsa_kit.service.request_parsing import (
    IMAGE_TYPES,
    JSON,
    MULTIPART,
    Blob,
    blobs_of_texts,
    decode_text,
    media_type,
    parse_json,
    parse_multipart,
    read_body,
)
from gtsa_kit.service.schemas import (
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsBody,
    ImagesBody,
    PairBody,
    Usage,
    arrays_answer,
    errors,
    image_body,
    json_body,
)
from gtsa_kit.service.serialization import MEDIA_TYPES, Item, encode
from gtsa_kit.service.state import Service, place_of, service_of, while_connected

router = APIRouter(redirect_slashes=False)
REFUSALS = errors(400, 401, 408, 413, 415, 422, 503)


@router.post(
    "/v1/features",
    summary="Embeddings and feature maps",
    response_class=Response,
    responses={**arrays_answer("Arrays by name, and an account of them under `about`"), **REFUSALS},
    openapi_extra=image_body(None),
)
async def features(request: Request, query: Annotated[FeaturesQuery, Query()]) -> Response:
    """Features of one image (the body), or of several (multipart, or `{"images": [base64, ...]}`).

    Arrays are `embedding` (D), `feature_map` (D, h, w), `feature_map.boxes` (N, D, roi_size, roi_size) and
    `feature_map.points` (N, D); of several images each name begins with `{index}.`, and an image that can't be used has
    an `error` in `items` while the others are answered. `grid_to_pixel` (2, 3) takes a position (u, v, 1) on the map,
    in cells, to (x, y) in pixels of the image as its file stores it.
    """
    service = service_of(request)
    ask = ask_features(query, service.runner, service.settings.max_size)
    service.known.keep(request.scope, query.format, ask)
    return await answer_features(request, query.format, ask)


async def answer_features(request: Request, form: str, ask: Ask) -> Response:
    """The same of a query that is known to be sound."""
    service, timing = service_of(request), Timing()
    blobs, many = await read_images(request, service, timing)
    reserve(request, service, [ask] * len(blobs))
    extractor = service.extractor
    if many:
        items = await while_connected(request, extractor.items(blobs, ask, timing))
    else:
        items = [await while_connected(request, extractor.item(blobs[0], ask, timing))]
    if all(item.failed for item in items):
        raise Refusal(422, "no_image", "none of the images can be used", "image", items=[item.about for item in items])
    return await answer(request, form, {"model": service.about_model()}, items, many, timing)


@router.post(
    "/v1/similarity",
    summary="Where in the second image it looks like here in the first",
    response_class=Response,
    responses={**arrays_answer("`similarity` (h, w): cosines over the second image"), **REFUSALS},
    openapi_extra=image_body(2),
)
async def similarity(request: Request, query: Annotated[SimilarityQuery, Query()]) -> Response:
    """Cosines of the features at a point, or of a box's mean, in the first image with all cells of the second.

    The images come as two files of a multipart body, in this order, or as `{"first": base64, "second": base64}`.
    `best` is the center of the most similar cell, in pixels of the second image.
    """
    service = service_of(request)
    ask = ask_similarity(query, service.runner, service.settings.max_size)
    plain = Ask((query.output,), ask.size, "float32", np.zeros((0, 4)), np.zeros((0, 2)), 1)
    first_ask = Ask((query.output,), ask.size, "float32", ask.boxes, ask.points, 1, ask.fields)
    timing = Timing()
    pair = await read_pair(request, service, timing)
    reserve(request, service, [first_ask, plain])

    async def both() -> tuple[Item, Item]:
        first = await service.extractor.items([pair[0]], first_ask, timing)
        second = await service.extractor.items([pair[1]], plain, timing)
        return first[0], second[0]

    first, second = await while_connected(request, both())
    for name, item in (("first", first), ("second", second)):
        if item.failed:
            problem = item.about["error"]
            field = problem["param"] if problem["param"] in ask.fields else name
            raise Refusal(item.about["status"], problem["code"], f"{name}: {problem['message']}", field)
    found = compare(first, second, query)
    return await answer(request, query.format, {"model": service.about_model()}, [found], False, timing)


def compare(first: Item, second: Item, query: SimilarityQuery) -> Item:
    """The cosine map over the second image, and where it is highest."""
    vector = (
        first.arrays[f"{query.output}.points"][0]
        if query.point is not None
        else first.arrays[f"{query.output}.boxes"][0, :, 0, 0]
    )
    cosines = cosine_map(vector, second.arrays[query.output])
    row, column = np.unravel_index(int(cosines.argmax()), cosines.shape)
    x, y = np.array(second.about["grid_to_pixel"]) @ [column + 0.5, row + 0.5, 1]
    about = {name: value for name, value in second.about.items() if name not in ("name", "status")}
    best = {"x": float(x), "y": float(y), "cosine": float(cosines[row, column])}
    return Item({**about, "best": best}, {"similarity": cosines.astype(query.dtype)})


@router.post(
    "/v1/embeddings",
    summary="Embeddings for OpenAI's clients",
    responses=REFUSALS,
    openapi_extra=json_body(EmbeddingsBody),
    response_model=EmbeddingsAnswer,
)
async def embeddings(request: Request) -> Response:
    """One vector an image; `input` is an image in base64 or a data URI, or a list of them.

    As in OpenAI's interface, and unlike /v1/features, one bad image fails the request: a list of vectors with a gap
    would be read shifted.
    """
    service = service_of(request)
    if media_type(request) != JSON:
        raise unsupported(f"send {JSON}")
    timing = Timing()
    place = place_of(request)
    body = await timed_body(request, service, timing, service.settings.request_bytes)
    place.take(size=2 * len(body))
    asked = await service.extractor.in_pool(parse_json, EmbeddingsBody, body)
    dim = service.runner.manifest.dim
    if asked.dimensions not in (None, dim):
        raise invalid("dimensions", f"this model's vectors have {dim}")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    blobs = await service.extractor.in_pool(blobs_of_texts, texts, service.settings.image_bytes, "input")
    ask = ask_features(FeaturesQuery(outputs=EMBEDDING, dtype="float32"), service.runner, 1 << 30)
    reserve(request, service, [ask] * len(blobs))
    items = await while_connected(request, service.extractor.items(blobs, ask, timing))
    for item in items:
        if item.failed:
            problem = item.about["error"]
            message = problem["message"].removeprefix(f"{item.about['name']}: ")
            raise Refusal(item.about["status"], problem["code"], f"{item.about['name']}: {message}", item.about["name"])
    body = await service.extractor.in_pool(vectors_json, items, asked.encoding_format == "base64", service.model_id)
    return Response(body, media_type=JSON, headers={"Server-Timing": timing.header()})


def vectors_json(items: Sequence[Item], as_base64: bool, model_id: str) -> bytes:
    """OpenAI's answer."""
    data = []
    for i, item in enumerate(items):
        vector = item.arrays[EMBEDDING]
        shown = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()
        data.append(Embedding(index=i, embedding=shown))
    cells = sum(int(np.prod(item.about["grid"])) for item in items)
    usage = Usage(prompt_tokens=cells, total_tokens=cells)
    return EmbeddingsAnswer(data=data, model=model_id, usage=usage).model_dump_json().encode()


async def read_images(request: Request, service: Service, timing: Timing) -> tuple[list[Blob], bool]:
    """The images of a body, and whether it is of a kind that could hold several.

    Raises:
        Refusal: 413, 415 or 422.
    """
    settings, kind = service.settings, media_type(request)
    if kind in IMAGE_TYPES:
        return [Blob("image", await timed_body(request, service, timing, settings.image_bytes))], False
    if kind not in (MULTIPART, JSON):
        raise unsupported(f"send an image (Content-Type: image/jpeg, image/png, ...), {MULTIPART} or {JSON}")
    body = await timed_body(request, service, timing, settings.request_bytes)
    place_of(request).take(size=2 * len(body))  # what is cut and decoded out of it
    if kind == MULTIPART:
        content_type = request.headers["content-type"]
        blobs = await service.extractor.in_pool(parse_multipart, content_type, body, settings.image_bytes)
    else:
        texts = (await service.extractor.in_pool(parse_json, ImagesBody, body)).images
        blobs = await service.extractor.in_pool(blobs_of_texts, texts, settings.image_bytes, "images")
    if not blobs:
        raise invalid("images", "the body holds none")
    return blobs, True


async def read_pair(request: Request, service: Service, timing: Timing) -> list[Blob]:
    """Two images.

    Raises:
        Refusal: 413, 415 or 422.
    """
    settings, kind = service.settings, media_type(request)
    if kind not in (MULTIPART, JSON):
        raise unsupported(f"send two images as {MULTIPART} or {JSON}")
    body = await timed_body(request, service, timing, settings.request_bytes)
    place_of(request).take(size=2 * len(body))
    if kind == JSON:
        pair = await service.extractor.in_pool(parse_json, PairBody, body)
        texts = {"first": pair.first, "second": pair.second}
        return [Blob(name, decode_text(text, settings.image_bytes, name)) for name, text in texts.items()]
    content_type = request.headers["content-type"]
    blobs = await service.extractor.in_pool(parse_multipart, content_type, body, settings.image_bytes)
    if len(blobs) != 2:
        raise invalid("second", f"send two images, got {len(blobs)}")
    return blobs


async def timed_body(request: Request, service: Service, timing: Timing, limit: int) -> bytes:
    """The body, with the time that it took."""
    started = time.monotonic()
    body = await read_body(request, place_of(request), limit, service.settings.body_seconds)
    timing.note("read", time.monotonic() - started)
    service.metrics.stage["read"].observe(timing.stages["read"])
    return body


def reserve(request: Request, service: Service, asks: Sequence[Ask]) -> None:
    """Places for the images beyond the first, and memory for all.

    Raises:
        Refusal: 413 or 503.
    """
    place_of(request).take(images=len(asks) - 1, size=sum(map(service.extractor.memory, asks)))


async def answer(
    request: Request, form: str, about: dict[str, Any], items: Sequence[Item], many: bool, timing: Timing
) -> Response:
    """Arrays and their account in the format asked for."""
    service = service_of(request)
    started = time.monotonic()
    size = sum(values.nbytes for item in items for values in item.arrays.values())
    # Numbers as text take many times as long as bytes.
    weight = size if form in ("safetensors", "npz") else 16 * size
    body = await service.extractor.near(weight, encode, form, about, items, many)
    timing.note("encode", time.monotonic() - started)
    service.metrics.stage["encode"].observe(timing.stages["encode"])
    service.pending.finished(len(items))
    return Response(body, media_type=MEDIA_TYPES[form], headers={"Server-Timing": timing.header()})
