"""Bodies of requests to the bytes of images: bounded before they are read, and in memory only."""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from gtsa_kit.service.admission import Place
from gtsa_kit.service.errors import Refusal, invalid, too_large, unsupported
from gtsa_kit.service.query import explain

_SUBTYPES = "jpeg jpg pjpeg png x-png webp bmp x-bmp x-ms-bmp tiff gif".split()
IMAGE_TYPES: Final = frozenset({"application/octet-stream", *(f"image/{kind}" for kind in _SUBTYPES)})
MULTIPART: Final = "multipart/form-data"
JSON: Final = "application/json"
MOST_IMAGES: Final = 64
"""In one request."""
_MOST_COMMAS: Final = 4096
_MOST_PART_HEADERS: Final = 8
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Blob:
    """The bytes of one image file, or why there are none."""

    name: str
    """What the client called it; for answers only, never a path here."""
    content: bytes
    refusal: Refusal | None = None


def media_type(request: Request) -> str:
    """Without parameters, lower case; "" if the client said none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, place: Place, limit: int, seconds: float) -> bytes:
    """All of the body, counted in `place` as it comes.

    Raises:
        Refusal: 413 above `limit` bytes, by what it declares or by what it is; 408 if it takes longer than `seconds`;
            415 if it is compressed.
    """
    if request.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise unsupported("send the body without a content encoding")
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdecimal():
        raise Refusal(400, "bad_request", "Content-Length is not a number", "content-length")
    if int(declared) > limit:
        raise too_large("the body", limit)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large("the body", limit)
                place.take(size=len(chunk))
                pieces.append(chunk)
    except TimeoutError as error:
        raise Refusal(408, "timeout", f"the body did not arrive within {seconds:g} s") from error
    return b"".join(filter(None, pieces))  # of one piece it is that piece


def parse_multipart(content_type: str, body: bytes, image_bytes: int) -> list[Blob]:
    """The files of a multipart body, in order; a file that is too large is refused alone.

    Raises:
        Refusal: 422, not whole, or it holds other things than files.
    """
    _, parameters = parse_options_header(content_type)
    if not parameters.get(b"boundary"):
        raise invalid("content-type", "multipart/form-data needs a boundary")
    collector = _Collector(image_bytes)
    try:
        # Its own default bound on headers of a part would do; this one says what is usual.
        parser = MultipartParser(parameters[b"boundary"], collector.callbacks(), max_header_count=_MOST_PART_HEADERS)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise invalid("body", "is not sound multipart/form-data") from error
    if not collector.ended:
        raise invalid("body", "ends within a part")
    return collector.blobs


class _Collector:
    """Callbacks of the parser that gather files."""

    def __init__(self, image_bytes: int) -> None:
        self.image_bytes = image_bytes
        self.blobs: list[Blob] = []
        self.ended = False
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []

    def callbacks(self) -> dict[str, object]:
        names = "part_begin part_data part_end header_field header_value header_end headers_finished end".split()
        return {f"on_{name}": getattr(self, name) for name in names}

    def part_begin(self) -> None:
        if len(self.blobs) >= MOST_IMAGES:
            raise too_many()
        self._headers, self._pieces = {}, []

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
            raise invalid(self._field or "body", "parts are image files, with a filename; parameters go into the query")
        self._filename = options[b"filename"].decode("utf-8", "replace")[:200]

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def part_end(self) -> None:
        content = b"".join(self._pieces)
        kind = self._headers.get(b"content-type", b"application/octet-stream").decode("latin-1")
        refusal = None
        if kind.partition(";")[0].strip().lower() not in IMAGE_TYPES:
            refusal = unsupported("this part is not sent as an image")
        elif len(content) > self.image_bytes:
            refusal = too_large("the image", self.image_bytes)
        self.blobs.append(Blob(self._filename or self._field, b"" if refusal else content, refusal))

    def end(self) -> None:
        self.ended = True


def parse_json(model: type[Model], body: bytes) -> Model:
    """A JSON body to a model of it.

    Raises:
        Refusal: 422 with the name of the field.
    """
    # Each value of JSON takes many times its bytes in memory; sound bodies have few.
    if body.count(b",") > _MOST_COMMAS:
        raise invalid("body", f"has more than {_MOST_COMMAS} commas, which no request needs")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        if first["type"] == "json_invalid":
            raise invalid("body", "is not JSON") from error
        raise invalid(field[:200], explain(first["type"], first["msg"], first.get("ctx", {}))) from error


def blobs_of_texts(texts: Sequence[str], image_bytes: int, field: str) -> list[Blob]:
    """Images in base64, with or without `data:image/...;base64,` before it; each is refused alone."""
    found = []
    for i, text in enumerate(texts):
        name = f"{field}[{i}]"
        try:
            found.append(Blob(name, decode_text(text, image_bytes, name)))
        except Refusal as refusal:
            found.append(Blob(name, b"", refusal))
    return found


def decode_text(text: str, image_bytes: int, field: str) -> bytes:
    """One image in base64.

    Raises:
        Refusal: 413 or 422.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        kind, *parameters = head[5:].lower().split(";")
        if not comma or "base64" not in parameters:
            raise invalid(field, "a data URI looks like data:image/jpeg;base64,...")
        if kind.strip() not in IMAGE_TYPES:
            raise Refusal(415, "unsupported_media_type", f"{field}: the data URI is not one of an image", field)
    if len(text) * 3 // 4 > image_bytes + 4:
        raise too_large("the image", image_bytes, field)
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(field, "is neither base64 nor a data URI") from error


def too_many() -> Refusal:
    """422."""
    return invalid("body", f"a request holds up to {MOST_IMAGES} images")
