"""Images of a request: its body is read with limits, counted in the reservation and parsed by content type."""

import time

from starlette.requests import Request

from gtsa_kit.service.body import read_body
from gtsa_kit.service.errors import invalid_parameter, unsupported_media_type
from gtsa_kit.service.extract import RequestTiming
from gtsa_kit.service.request_parsing import (
    IMAGE_TYPES,
    JSON,
    MULTIPART,
    UploadedImage,
    decode_base64_image,
    get_media_type,
    parse_base64_images,
    parse_json_body,
    parse_multipart,
)
from gtsa_kit.service.schemas import ImagePairBody, ImagesBody
from gtsa_kit.service.state import ServiceState, get_reservation


async def read_images(request: Request, state: ServiceState, timing: RequestTiming) -> tuple[list[UploadedImage], bool]:
    """Return the images of a body, and True if its content type allows several.

    Raises:
        APIError: 413, 415 or 422.
    """
    settings, media_type = state.settings, get_media_type(request)
    if media_type in IMAGE_TYPES:
        content = await read_timed_body(request, state, timing, settings.max_image_bytes)
        return [UploadedImage("image", content)], False
    if media_type not in (MULTIPART, JSON):
        message = f"send an image (Content-Type: image/jpeg, image/tiff, application/x-npy, ...), {MULTIPART} or {JSON}"
        raise unsupported_media_type(message)
    body = await read_timed_body(request, state, timing, settings.max_request_bytes)
    get_reservation(request).acquire(size=2 * len(body))  # for the images that are copied or decoded from the body
    run, max_bytes = state.extractor.run_in_pool, settings.max_image_bytes
    if media_type == MULTIPART:
        uploads = await run(parse_multipart, request.headers["content-type"], body, max_bytes)
    else:
        texts = (await run(parse_json_body, ImagesBody, body)).images
        uploads = await run(parse_base64_images, texts, max_bytes, "images")
    if not uploads:
        raise invalid_parameter("images", "the body holds no image")
    return uploads, True


async def read_image(request: Request, state: ServiceState, timing: RequestTiming) -> UploadedImage:
    """Return the image that is the body.

    Raises:
        APIError: 413 or 415.
    """
    if get_media_type(request) not in IMAGE_TYPES:
        raise unsupported_media_type("send one image (Content-Type: image/tiff, application/x-npy, ...)")
    return UploadedImage("image", await read_timed_body(request, state, timing, state.settings.max_image_bytes))


async def read_image_pair(request: Request, state: ServiceState, timing: RequestTiming) -> list[UploadedImage]:
    """Return the two images of a body.

    Raises:
        APIError: 413, 415 or 422.
    """
    settings, media_type = state.settings, get_media_type(request)
    if media_type not in (MULTIPART, JSON):
        raise unsupported_media_type(f"send two images as {MULTIPART} or {JSON}")
    body = await read_timed_body(request, state, timing, settings.max_request_bytes)
    get_reservation(request).acquire(size=2 * len(body))
    run, max_bytes = state.extractor.run_in_pool, settings.max_image_bytes
    if media_type == JSON:
        pair = await run(parse_json_body, ImagePairBody, body)
        texts = {"first": pair.first, "second": pair.second}
        return [UploadedImage(name, decode_base64_image(text, max_bytes, name)) for name, text in texts.items()]
    uploads = await run(parse_multipart, request.headers["content-type"], body, max_bytes)
    if len(uploads) != 2:
        raise invalid_parameter("second", f"send two images, got {len(uploads)}")
    return uploads


async def read_timed_body(request: Request, state: ServiceState, timing: RequestTiming, limit: int) -> bytes:
    """Read the body and record the time that it took."""
    started = time.monotonic()
    body = await read_body(request, get_reservation(request), limit, state.settings.body_timeout)
    timing.record("read", time.monotonic() - started)
    state.metrics.stage["read"].observe(timing.stages["read"])
    return body
