"""Models of request and response bodies, for validation and for the OpenAPI document."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from gtsa_kit.service.request_parsing import JSON, MAX_IMAGES
from gtsa_kit.service.serialization import MEDIA_TYPES

BINARY: Final = {"type": "string", "format": "binary"}
"""JSON schema of a file."""
_JSON_KINDS: Final = {dict: "an object", list: "a list", bool: "a boolean", int: "a number", float: "a number"}


def _check_text(value: Any) -> Any:
    """Reject a value that can't be an image in base64, with the format to send in the message."""
    if isinstance(value, str) and value:
        return value
    kind = "an empty string" if value == "" else _JSON_KINDS.get(type(value), "null")
    raise PydanticCustomError("not_an_image", "is {kind}; send an image as base64 or as a data URI", {"kind": kind})


def _as_list(value: Any) -> Any:
    """Return one image as a list of one, as OpenAI's interface defines `input`."""
    return value if isinstance(value, list) else [_check_text(value)]


Base64Image = Annotated[
    str, BeforeValidator(_check_text), Field(min_length=1, description="Image file in base64, or as a data URI.")
]
Base64Images = Annotated[list[Base64Image], Field(min_length=1, max_length=MAX_IMAGES)]
_IMAGE_SCHEMA: Final = {"type": "string", "minLength": 1}
_INPUT_SCHEMA: Final = {
    "anyOf": [_IMAGE_SCHEMA, {"type": "array", "items": _IMAGE_SCHEMA, "minItems": 1, "maxItems": MAX_IMAGES}],
    "description": "One image or several: image files in base64, or as data URIs.",
}


class StrictBody(BaseModel):
    """Body that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid")


class ImagesBody(StrictBody):
    """Body of POST /v1/features with several images."""

    images: Base64Images


class ImagePairBody(StrictBody):
    """Body of POST /v1/similarity."""

    first: Base64Image
    second: Base64Image


class EmbeddingsBody(BaseModel):
    """Body of POST /v1/embeddings, as OpenAI's clients send it; keys without a meaning here are ignored."""

    input: Annotated[Base64Images, BeforeValidator(_as_list), WithJsonSchema(_INPUT_SCHEMA)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(description="Length of the vectors; only the artifact's own.")] = None


class EmbeddingItem(BaseModel):
    """Embedding of one image."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    """Numbers, or little-endian float32 in base64."""


class Usage(BaseModel):
    """Patch tokens that the model computed for the request."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """Response of POST /v1/embeddings, as OpenAI's interface defines it."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class LabelEntry(BaseModel):
    """Class of a task."""

    pixel: int | None = None
    """Value of its pixels in a mask; null for another task than segmentation."""
    id: int
    """Value that means the class in the data of the training."""
    name: str
    color: tuple[int, int, int]
    aliases: tuple[int, ...] = ()
    """Further values of masks that mean the class."""


class TaskEntry(BaseModel):
    """Task that a head of the model solves."""

    task: Literal["segment", "classify", "detect"]
    labels: list[LabelEntry]
    """Classes by class number."""
    short_side: int | None
    """Short side of inputs in pixels, where images keep their aspect ratio; null for a square."""


class InputEntry(BaseModel):
    """Images that the model takes."""

    channels: int
    dtype: Literal["uint8", "uint16", "float32"]
    """Type of the samples."""
    colors: bool
    """True if the channels are red, green and blue."""
    content_types: list[str]
    """Content types of a body, or a part of it, that is an image."""


class ModelEntry(BaseModel):
    """Model that the service computes with, as OpenAI's interface defines it, and properties of the artifact."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Time at which the artifact was written, in seconds since 1970."""
    owned_by: str = "gtsa-kit"
    architecture: str
    format: str
    precision: str
    sha256: str
    """Hash of the source weights."""
    dimensions: int | None
    """Length of the vectors; null for a fine-tuned model, which returns none."""
    input: InputEntry
    tasks: dict[str, TaskEntry]
    """Tasks by the name of their head; empty for an encoder without heads."""


class ModelList(BaseModel):
    """Response of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class ErrorDetail(BaseModel):
    """Cause of an error."""

    message: str
    type: str
    param: str | None
    """Parameter, header or part of the body that is wrong."""
    code: str


class ErrorResponse(BaseModel):
    """Response with a status of 400 or above."""

    error: ErrorDetail
    items: list[dict[str, Any]] | None = None


class ServiceStatus(BaseModel):
    """Response of /health and /ready."""

    status: str


_ERROR_DESCRIPTIONS: Final = {
    400: "Invalid HTTP",
    401: "Missing or wrong token",
    404: "Unknown path, or the model does not do this",
    405: "Method not allowed",
    408: "The body did not arrive in time",
    413: "Too large",
    415: "Unsupported content type",
    422: "Invalid parameter, or an image that can't be used",
    503: "The queue is full, or the service is shutting down",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route for these statuses."""
    return {status: {"model": ErrorResponse, "description": _ERROR_DESCRIPTIONS[status]} for status in statuses}


def array_responses(description: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route for a 200 with arrays in any of the formats."""
    content: dict[str, Any] = {media: {"schema": BINARY} for media in MEDIA_TYPES.values()}
    content[JSON] = {"schema": {"type": "object"}}
    return {200: {"description": description, "content": content}}


def mask_responses(description: str, default: str, *more: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route of a task for a 200 in any of its formats.

    Args:
        description: Content of the response.
        default: Media type of the default format, which is listed first.
        more: Media types of other binary formats than npz and safetensors.
    """
    types = [default, *(MEDIA_TYPES[name] for name in ("npz", "safetensors")), *more]
    content: dict[str, Any] = {media: {"schema": BINARY} for media in types}
    content[JSON] = {"schema": {"type": "object"}}
    return {200: {"description": description, "content": content}}
