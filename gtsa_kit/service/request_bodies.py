"""Request bodies of the routes in the OpenAPI document."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from gtsa_kit.service.request_parsing import IMAGE_TYPES, JSON, MAX_IMAGES, MULTIPART
from gtsa_kit.service.schemas import BINARY, ImagePairBody, ImagesBody


def image_request_body() -> dict[str, Any]:
    """Return the `openapi_extra` of a route that accepts one image as the body, or several as multipart or JSON."""
    files = {"type": "array", "items": BINARY, "minItems": 1, "maxItems": MAX_IMAGES}
    parts = {"type": "object", "properties": {"images": files}, "required": ["images"]}
    several = {MULTIPART: {"schema": parts}, JSON: {"schema": ImagesBody.model_json_schema()}}
    return _request_body({**_single_image(), **several})


def single_image_request_body() -> dict[str, Any]:
    """Return the `openapi_extra` of a route that accepts one image as the body."""
    return _request_body(_single_image())


def image_pair_request_body() -> dict[str, Any]:
    """Return the `openapi_extra` of a route that accepts two images as multipart or JSON."""
    names = ("first", "second")
    parts = {"type": "object", "properties": dict.fromkeys(names, BINARY), "required": list(names)}
    return _request_body({MULTIPART: {"schema": parts}, JSON: {"schema": ImagePairBody.model_json_schema()}})


def json_request_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads and parses a JSON body itself, with limits."""
    return _request_body({JSON: {"schema": model.model_json_schema()}})


def keep_input_types(document: Mapping[str, Any], types: Collection[str]) -> None:
    """Remove the content types of images that the model does not take from an OpenAPI document."""
    for methods in document["paths"].values():
        for operation in methods.values():
            content = operation.get("requestBody", {}).get("content", {})
            for media in IMAGE_TYPES.intersection(content).difference(types):
                del content[media]


def _single_image() -> dict[str, Any]:
    return {media: {"schema": BINARY} for media in sorted(IMAGE_TYPES)}


def _request_body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}
