"""What bodies and answers look like: for validation and for the OpenAPI document."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from gtsa_kit.service.request_parsing import IMAGE_TYPES, JSON, MOST_IMAGES, MULTIPART
from gtsa_kit.service.serialization import MEDIA_TYPES

ImageText = Annotated[str, Field(min_length=1, description="An image file in base64, or as a data URI.")]
ImageTexts = Annotated[list[ImageText], Field(min_length=1, max_length=MOST_IMAGES)]


class Strict(BaseModel):
    """A body whose unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class ImagesBody(Strict):
    """Several images of POST /v1/features."""

    images: ImageTexts


class PairBody(Strict):
    """The images of POST /v1/similarity."""

    first: ImageText
    second: ImageText


class EmbeddingsBody(BaseModel):
    """POST /v1/embeddings, as OpenAI's clients send it; keys that mean nothing here are passed over."""

    input: ImageText | ImageTexts
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(description="If given, the artifact's own.")] = None


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    """Numbers, or base64 of little-endian float32."""


class Usage(BaseModel):
    """Cells of the feature maps, in the place of tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """As OpenAI's."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Problem(BaseModel):
    """Why not."""

    message: str
    type: str
    param: str | None
    """The parameter, header or part of the body that is wrong."""
    code: str


class ErrorAnswer(BaseModel):
    """Every answer with a status of 400 or more."""

    error: Problem
    items: list[dict[str, Any]] | None = None


class Status(BaseModel):
    """Of /health and /ready."""

    status: str


_WHY: Final = {
    400: "Not sound HTTP",
    401: "Without the token",
    404: "Nothing here",
    405: "Another method",
    408: "The body was too slow",
    413: "Too large",
    415: "A wrong type of body",
    422: "A wrong parameter, or an image that can't be used",
    503: "The queue is full, or the service is about to end",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses` of a route."""
    return {status: {"model": ErrorAnswer, "description": _WHY[status]} for status in statuses}


def arrays_answer(what: str) -> dict[int | str, dict[str, Any]]:
    """A 200 in any of the formats."""
    content = {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()}
    content[JSON] = {"schema": {"type": "object"}}
    return {200: {"description": what, "content": content}}


def image_body(files: int | None) -> dict[str, Any]:
    """An `openapi_extra` for images: a body that is one (without `files`), multipart, or base64 in JSON."""
    binary = {"type": "string", "format": "binary"}
    if files is None:
        single = {media: {"schema": binary} for media in sorted(IMAGE_TYPES)}
        parts: dict[str, Any] = {
            "type": "object",
            "properties": {"images": {"type": "array", "items": binary, "minItems": 1, "maxItems": MOST_IMAGES}},
            "required": ["images"],
        }
        schema = ImagesBody.model_json_schema()
    else:
        single = {}
        names = ("first", "second")
        parts = {"type": "object", "properties": dict.fromkeys(names, binary), "required": list(names)}
        schema = PairBody.model_json_schema()
    content = {**single, MULTIPART: {"schema": parts}, JSON: {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """An `openapi_extra` for a JSON body that the route reads by itself, bounded."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": model.model_json_schema()}}}}
