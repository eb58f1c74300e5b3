"""Parsing of request bodies into the bytes of image files. Nothing is written to disk."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from gtsa_kit.service.errors import APIError, invalid_parameter, too_large, unsupported_media_type
from gtsa_kit.service.query import describe_validation_error

_SUBTYPES = "jpeg jpg pjpeg png x-png webp bmp x-bmp x-ms-bmp tiff gif avif heic heif".split()
OCTET_STREAM: Final = "application/octet-stream"
NPY: Final = "application/x-npy"
DICOM: Final = "application/dicom"
IMAGE_TYPES: Final = frozenset({OCTET_STREAM, NPY, DICOM, *(f"image/{subtype}" for subtype in _SUBTYPES)})
"""Content types of a body, or a part of it, that is an image file; its first bytes say of which format."""
MULTIPART: Final = "multipart/form-data"
JSON: Final = "application/json"
MAX_IMAGES: Final = 64
"""Maximum number of images in one request."""
_MAX_COMMAS: Final = 4096
_MAX_PART_HEADERS: Final = 8
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class UploadedImage:
    """Bytes of one image file, or the error that rejects it."""

    name: str
    """Name that the client gave. It appears in responses and is never used as a path."""
    content: bytes
    error: APIError | None = None


def get_media_type(request: Request) -> str:
    """Return the content type in lower case without parameters, "" if the client sent none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_multipart(content_type: str, body: bytes, max_image_bytes: int) -> list[UploadedImage]:
    """Return the files of a multipart body in order; a file that is too large has an error, and the others are kept.

    Raises:
        APIError: 422, the body is incomplete or holds parts that are not files.
    """
    _, parameters = parse_options_header(content_type)
    if not parameters.get(b"boundary"):
        raise invalid_parameter("content-type", "multipart/form-data needs a boundary")
    collector = _FileCollector(max_image_bytes)
    try:
        parser = MultipartParser(
            parameters[b"boundary"],
            collector.callbacks(),  # type: ignore[arg-type]
            max_header_count=_MAX_PART_HEADERS,
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise invalid_parameter("body", "is not valid multipart/form-data") from error
    if not collector.ended:
        raise invalid_parameter("body", "ends within a part")
    return collector.uploads


class _FileCollector:
    """Callbacks of the multipart parser that collect files."""

    def __init__(self, max_image_bytes: int) -> None:
        self.max_image_bytes = max_image_bytes
        self.uploads: list[UploadedImage] = []
        self.ended = False
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []

    def callbacks(self) -> dict[str, object]:
        names = "part_begin part_data part_end header_field header_value header_end headers_finished end".split()
        return {f"on_{name}": getattr(self, name) for name in names}

    def part_begin(self) -> None:
        if len(self.uploads) >= MAX_IMAGES:
            raise invalid_parameter("body", f"a request holds up to {MAX_IMAGES} images")
        self._headers, self._chunks = {}, []

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        self._field = options.get(b"name", b"").decode("utf-8", "replace")[:200]
        if b"filename" not in options:
            message = "parts must be image files with a filename; send parameters in the query"
            raise invalid_parameter(self._field or "body", message)
        self._filename = options[b"filename"].decode("utf-8", "replace")[:200]

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def part_end(self) -> None:
        content = b"".join(self._chunks)
        media_type = self._headers.get(b"content-type", OCTET_STREAM.encode()).decode("latin-1")
        error = None
        if media_type.partition(";")[0].strip().lower() not in IMAGE_TYPES:
            error = unsupported_media_type("the content type of this part is not that of an image")
        elif len(content) > self.max_image_bytes:
            error = too_large("the image", self.max_image_bytes)
        self.uploads.append(UploadedImage(self._filename or self._field, b"" if error else content, error))

    def end(self) -> None:
        self.ended = True


def parse_json_body(model: type[Model], body: bytes) -> Model:
    """Parse a JSON body into a pydantic model.

    Raises:
        APIError: 422 with the name of the field.
    """
    # Parsed JSON takes many times its bytes in memory, and valid bodies have few values.
    if body.count(b",") > _MAX_COMMAS:
        raise invalid_parameter("body", f"has more than {_MAX_COMMAS} commas, which no valid request needs")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])[1:] or "body"
        if first["type"] == "json_invalid":
            raise invalid_parameter("body", "is not JSON") from error
        message = describe_validation_error(first["type"], first["msg"], first.get("ctx", {}))
        raise invalid_parameter(field[:200], message) from error


def parse_base64_images(texts: Sequence[str], max_image_bytes: int, field: str) -> list[UploadedImage]:
    """Decode images in base64 or data URIs; an invalid one has an error, and the others are kept."""
    uploads = []
    for i, text in enumerate(texts):
        name = f"{field}[{i}]"
        try:
            uploads.append(UploadedImage(name, decode_base64_image(text, max_image_bytes, name)))
        except APIError as error:
            uploads.append(UploadedImage(name, b"", error))
    return uploads


def decode_base64_image(text: str, max_image_bytes: int, field: str) -> bytes:
    """Decode one image in base64, with or without a prefix `data:image/...;base64,`.

    Line breaks, missing padding and the alphabet for URLs are accepted.

    Raises:
        APIError: 413 if it is too large, 415 if the data URI has another type, 422 if it is not base64.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        media_type, *parameters = head[5:].lower().split(";")
        if not comma or "base64" not in parameters:
            raise invalid_parameter(field, "a data URI looks like data:image/jpeg;base64,...")
        if media_type.strip() not in IMAGE_TYPES:
            raise unsupported_media_type(f"{field}: the data URI is not that of an image", field)
    text = "".join(line.strip() for line in text.splitlines())  # line breaks, as MIME and the command base64 write them
    if len(text) * 3 // 4 > max_image_bytes + 4:
        raise too_large("the image", max_image_bytes, field)
    try:
        encoded = text.encode("ascii").translate(_URL_SAFE).rstrip(b"=")
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_parameter(field, "is neither base64 nor a data URI") from error
