"""Routes of pictures: an image as PNG for browsers, and the samples of the page; no requested path reaches the disk."""

import io
from typing import Annotated

from fastapi import APIRouter, Query
from PIL import Image
from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gtsa_kit.models.pictures import parse_display_channels, rgb_picture
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.service.decoding import decode_upload
from gtsa_kit.service.errors import APIError, invalid_parameter
from gtsa_kit.service.extract import RequestTiming
from gtsa_kit.service.query import StrictQuery, refuse_repeated
from gtsa_kit.service.request_bodies import single_image_request_body
from gtsa_kit.service.request_parsing import UploadedImage
from gtsa_kit.service.samples import MAX_SIDE, Sample
from gtsa_kit.service.schemas import error_responses
from gtsa_kit.service.state import cancel_on_disconnect, get_reservation, get_state
from gtsa_kit.service.uploads import read_image

router = APIRouter(redirect_slashes=False)
PNG = "image/png"
BYTES_PER_PIXEL = 16
"""Memory of a picture and its PNG, bytes per pixel."""


class PictureQuery(StrictQuery):
    """Query parameters of POST /v1/picture."""

    show: (
        Annotated[
            str,
            StringConstraints(pattern=r"^[1-9][0-9]{0,4}(,[1-9][0-9]{0,4},[1-9][0-9]{0,4})?$"),
            Field(
                description="Channels of an image that is not 8-bit RGB, counted from 1: three as red, green and blue, "
                "or one as gray. Default: what the service was started with, else the first three.",
                examples=["4,3,2"],
            ),
        ]
        | None
    ) = None


@router.post(
    "/v1/picture",
    summary="A picture of an image, for browsers",
    response_class=Response,
    responses={
        200: {"description": "The picture", "content": {PNG: {"schema": {"type": "string", "format": "binary"}}}},
        **error_responses(400, 401, 408, 413, 415, 422, 503),
    },
    openapi_extra=single_image_request_body(),
)
async def picture(request: Request, query: Annotated[PictureQuery, Query()]) -> Response:
    """Return the image of the body as PNG, upright, at most 1,024 pixels high and wide.

    Browsers can't show TIFF files, arrays and DICOM files. Of other channels than RGB, three are shown, or one; a
    channel is black to white from two standard deviations below its mean in the training to two above.
    """
    state, timing = get_state(request), RequestTiming()
    refuse_repeated(request.query_params.multi_items())
    preprocessing, display_channels = state.model.preprocessing, state.display_channels
    if query.show is not None:
        try:
            display_channels = parse_display_channels(query.show, preprocessing)
        except ValueError as error:
            raise invalid_parameter("show", str(error).replace("--show", "show")) from error
    upload = await read_image(request, state, timing)
    get_reservation(request).acquire(size=BYTES_PER_PIXEL * MAX_SIDE**2)
    work = state.extractor.run_in_pool(
        encode_picture, upload, preprocessing, display_channels, state.settings.max_pixels
    )
    content = await cancel_on_disconnect(request, work)
    state.limiter.record_completion(1)
    return Response(content, media_type=PNG, headers={"Server-Timing": timing.header()})


def encode_picture(
    upload: UploadedImage, preprocessing: Preprocessing, display_channels: tuple[int, ...], max_pixels: int
) -> bytes:
    """Return the PNG of an uploaded image.

    Raises:
        APIError: The image can't be used.
    """
    pixels, _ = decode_upload(upload, preprocessing, max_pixels)
    image = Image.fromarray(rgb_picture(pixels, preprocessing, display_channels))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@router.get("/samples", include_in_schema=False)
async def samples(request: Request) -> JSONResponse:
    """Return the names of the sample images."""
    return JSONResponse([sample.name for sample in get_state(request).samples])


@router.get("/samples/{index}", include_in_schema=False)
async def sample(request: Request, index: int) -> Response:
    """Return the picture of a sample image as JPEG."""
    return _cached(_find(request, index).content, "image/jpeg")


@router.get("/samples/{index}/file", include_in_schema=False)
async def sample_file(request: Request, index: int) -> Response:
    """Return the file of a sample image, from memory, for a model of other channels than RGB."""
    return _cached(_find(request, index).file, "application/octet-stream")


def _find(request: Request, index: int) -> Sample:
    available = get_state(request).samples
    if not 0 <= index < len(available):
        raise APIError(404, "not_found", "there is no such sample", "index")
    return available[index]


def _cached(content: bytes, media_type: str) -> Response:
    return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})
