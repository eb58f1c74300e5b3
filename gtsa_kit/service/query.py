"""Query parameters of the computing routes, and their validation against the artifact."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gtsa_kit.export.spec import CLASS_TOKEN, EMBEDDING, FEATURE_MAP
from gtsa_kit.service.errors import invalid_parameter
from gtsa_kit.service.served_model import ServedModel

ResponseFormat = Literal["npz", "safetensors", "json", "arrow"]
ArrayDtype = Literal["float16", "float32"]
MAX_REGIONS: Final = 1024
"""Maximum number of boxes, and of points, in one request."""
REPEATABLE: Final = frozenset({"boxes", "points"})
"""Parameters that may be given several times."""
_NUMBER = r"-?[0-9]{1,6}(\.[0-9]{1,6})?"

SizeText = Annotated[
    str,
    StringConstraints(pattern=r"^[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})?$"),
    Field(
        description="Size of the model's input: N or HEIGHTxWIDTH, multiples of its patch size. "
        "Default: the artifact's own size.",
        examples=["224", "480x640"],
    ),
]
BoxTexts = Annotated[
    list[Annotated[str, StringConstraints(pattern=f"^{_NUMBER}(,{_NUMBER}){{3}}$")]],
    Field(
        description="Box x1,y1,x2,y2 in pixels of the image as stored in its file; repeat the parameter for more.",
        max_length=MAX_REGIONS,
        examples=[["10,20,200,180"]],
    ),
]
PointTexts = Annotated[
    list[Annotated[str, StringConstraints(pattern=f"^{_NUMBER},{_NUMBER}$")]],
    Field(
        description="Point x,y in pixels of the image as stored in its file; repeat the parameter for more.",
        max_length=MAX_REGIONS,
        examples=[["320,240"]],
    ),
]


class StrictQuery(BaseModel):
    """Query that rejects undeclared parameters, because a misspelled one would silently select a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FeaturesQuery(StrictQuery):
    """Query parameters of POST /v1/features."""

    outputs: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z_]+(_[0-9]{1,3})?(,[a-z_]+(_[0-9]{1,3})?)*$", max_length=1000),
        Field(
            description="Comma-separated output names: embedding, feature_map, and those that the artifact has of "
            "feature_map_{i} and class_token.",
            examples=["embedding,feature_map"],
        ),
    ] = f"{EMBEDDING},{FEATURE_MAP}"
    size: SizeText | None = None
    format: Annotated[ResponseFormat, Field(description="File format of the response.")] = "npz"
    dtype: Annotated[ArrayDtype, Field(description="Data type of the arrays.")] = "float16"
    boxes: BoxTexts = []
    points: PointTexts = []
    roi_size: Annotated[int, Field(ge=1, le=32, description="Height and width of a box's features.")] = 7


class SimilarityQuery(StrictQuery):
    """Query parameters of POST /v1/similarity: one point or one box in the first image."""

    point: (
        Annotated[
            str,
            StringConstraints(pattern=f"^{_NUMBER},{_NUMBER}$"),
            Field(description="Point x,y in pixels of the first image."),
        ]
        | None
    ) = None
    box: (
        Annotated[
            str,
            StringConstraints(pattern=f"^{_NUMBER}(,{_NUMBER}){{3}}$"),
            Field(description="Box x1,y1,x2,y2 in pixels of the first image."),
        ]
        | None
    ) = None
    output: Annotated[
        str,
        StringConstraints(pattern=r"^feature_map(_[0-9]{1,3})?$"),
        Field(description="Feature map that is compared."),
    ] = FEATURE_MAP
    size: SizeText | None = None
    format: Annotated[ResponseFormat, Field(description="File format of the response.")] = "json"
    dtype: Annotated[ArrayDtype, Field(description="Data type of the arrays.")] = "float32"


@dataclass(frozen=True)
class FeatureRequest:
    """Validated request for the features of one image."""

    outputs: tuple[str, ...]
    """Names of the requested outputs."""
    size: tuple[int, int]
    """Height and width of the model's input, pixels."""
    dtype: str
    """Data type of the returned arrays."""
    boxes: np.ndarray
    """Boxes (N, 4) float64, x1, y1, x2, y2 in pixels of the image as stored in its file."""
    points: np.ndarray
    """Points (N, 2) float64, x, y in pixels of the image as stored in its file."""
    roi_size: int
    """Height and width of a box's features."""
    parameter_names: tuple[str, str] = ("boxes", "points")
    """Names of the parameters that hold the boxes and the points, for error messages."""

    @property
    def region_maps(self) -> tuple[str, ...]:
        """Names of the maps that boxes and points are pooled from: the requested maps, or else `feature_map`."""
        return tuple(name for name in self.outputs if name not in (EMBEDDING, CLASS_TOKEN)) or (FEATURE_MAP,)


def parse_feature_request(query: FeaturesQuery, model: ServedModel, max_size: int) -> FeatureRequest:
    """Validate a query of /v1/features against the artifact.

    Raises:
        APIError: 422 with the name of the parameter.
    """
    return FeatureRequest(
        outputs=parse_outputs(query.outputs, model),
        size=parse_size(query.size, model, max_size),
        dtype=query.dtype,
        boxes=parse_boxes(query.boxes, "boxes"),
        points=parse_numbers(query.points, 2),
        roi_size=query.roi_size,
    )


def parse_similarity_request(
    query: SimilarityQuery, model: ServedModel, max_size: int
) -> tuple[FeatureRequest, FeatureRequest]:
    """Validate a query of /v1/similarity against the artifact.

    Returns:
        The request for the first image, with its point or box, and the one for the second. Both have dtype
        float32, since the response is cast after the comparison.

    Raises:
        APIError: 422 with the name of the parameter.
    """
    if (query.point is None) == (query.box is None):
        raise invalid_parameter("point", "give either a point or a box in the first image")
    outputs = parse_outputs(query.output, model, "output")
    size = parse_size(query.size, model, max_size)
    boxes = parse_boxes([query.box] if query.box else [], "box")
    points = parse_numbers([query.point] if query.point else [], 2)
    first = FeatureRequest(outputs, size, "float32", boxes, points, 1, ("box", "point"))
    return first, FeatureRequest(outputs, size, "float32", np.zeros((0, 4)), np.zeros((0, 2)), 1)


def parse_outputs(text: str, model: ServedModel, parameter: str = "outputs") -> tuple[str, ...]:
    """Return the requested output names without duplicates, in their order.

    Raises:
        APIError: 422, the artifact has no such output.
    """
    available = [spec.name for spec in model.manifest.outputs]
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in available:
            raise invalid_parameter(parameter, f"this artifact has no {name!r}, only {', '.join(available)}")
    return names


def parse_size(text: str | None, model: ServedModel, max_size: int) -> tuple[int, int]:
    """Return the requested (height, width) in pixels, or the artifact's own.

    Raises:
        APIError: 422, the size is above `max_size` or not one that the model accepts.
    """
    if text is None:
        default = model.preprocessing.size
        return model.nearest_size(default, default)
    parts = [int(part) for part in text.split("x")]
    height, width = parts[0], parts[-1]
    if max(height, width) > max_size:
        raise invalid_parameter("size", f"this service accepts up to {max_size} pixels per side, got {text}")
    try:
        model.manifest.check_axis("height", height)
        model.manifest.check_axis("width", width)
    except ValueError as error:
        raise invalid_parameter("size", str(error)) from error
    return height, width


def parse_boxes(texts: list[str], parameter: str) -> np.ndarray:
    """Return boxes (N, 4) float64.

    Raises:
        APIError: 422, a box has not x1 < x2 and y1 < y2.
    """
    boxes = parse_numbers(texts, 4)
    for text, (x1, y1, x2, y2) in zip(texts, boxes, strict=True):
        if x1 >= x2 or y1 >= y2:
            raise invalid_parameter(parameter, f"a box is x1,y1,x2,y2 with x1 < x2 and y1 < y2, got {text}")
    return boxes


def parse_numbers(texts: list[str], count: int) -> np.ndarray:
    """Return an array (N, count) float64 of comma-separated numbers whose pattern has been checked."""
    return np.array([[float(part) for part in text.split(",")] for text in texts], np.float64).reshape(-1, count)


def refuse_repeated(parameters: Iterable[tuple[str, str]]) -> None:
    """Raise `APIError` (422) for a parameter that is given twice but is not a list: one value would be ignored."""
    names = [name for name, _ in parameters if name not in REPEATABLE]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise invalid_parameter(repeated[:100], "is given more than once")


def describe_validation_error(kind: str, message: str, context: dict[str, object]) -> str:
    """Return a readable message for an error of pydantic, whose own message may quote a regular expression."""
    if kind == "extra_forbidden":
        return "there is no such parameter"
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        return f"must be {context.get('expected', 'another value')}"
    if kind == "not_an_image":
        return message
    if kind == "too_long":
        return f"holds {context.get('actual_length')} items; a request holds up to {context.get('max_length')}"
    if kind == "too_short":
        return "is an empty list; send at least one image"
    if kind == "string_pattern_mismatch":
        return "does not have the format that /docs shows"
    return re.sub(r"\s+", " ", message)[:200].lower()
