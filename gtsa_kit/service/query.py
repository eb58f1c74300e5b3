"""Parameters of a request: what may be asked for, and what the artifact at hand can give."""

import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gtsa_kit.export import Runner
from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP
from gtsa_kit.service.errors import invalid

AnswerFormat = Literal["npz", "safetensors", "json", "arrow"]
NumberType = Literal["float16", "float32"]
MOST_REGIONS: Final = 1024
"""Boxes, or points, in one request."""
MOST_OUTPUTS: Final = 64
_NUMBER = r"-?[0-9]{1,6}(\.[0-9]{1,6})?"

SizeText = Annotated[
    str,
    StringConstraints(pattern=r"^[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})?$"),
    Field(
        description="Size of the model's input: N, or HEIGHTxWIDTH, multiples of 16. Default: the artifact's own.",
        examples=["224", "480x640"],
    ),
]
BoxTexts = Annotated[
    list[Annotated[str, StringConstraints(pattern=f"^{_NUMBER}(,{_NUMBER}){{3}}$")]],
    Field(
        description="x1,y1,x2,y2 in pixels of the image as its file stores it; repeat the parameter for more.",
        max_length=MOST_REGIONS,
        examples=[["10,20,200,180"]],
    ),
]
PointTexts = Annotated[
    list[Annotated[str, StringConstraints(pattern=f"^{_NUMBER},{_NUMBER}$")]],
    Field(
        description="x,y in pixels of the image as its file stores it; repeat the parameter for more.",
        max_length=MOST_REGIONS,
        examples=[["320,240"]],
    ),
]


class Query(BaseModel):
    """Parameters that nobody declared are refused: a misspelt one would be a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FeaturesQuery(Query):
    """Of POST /v1/features."""

    outputs: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z_]+(_[0-9]{1,3})?(,[a-z_]+(_[0-9]{1,3})?)*$", max_length=1000),
        Field(
            description="Comma-separated: embedding, feature_map, feature_map_{i} of layers that the artifact has.",
            examples=["embedding,feature_map"],
        ),
    ] = f"{EMBEDDING},{FEATURE_MAP}"
    size: SizeText | None = None
    format: Annotated[AnswerFormat, Field(description="How the arrays are written.")] = "npz"
    dtype: Annotated[NumberType, Field(description="Of the arrays.")] = "float16"
    boxes: BoxTexts = []
    points: PointTexts = []
    roi_size: Annotated[int, Field(ge=1, le=32, description="Cells along each side of a box's features.")] = 7


class SimilarityQuery(Query):
    """Of POST /v1/similarity: one point or one box in the first image."""

    point: (
        Annotated[
            str, StringConstraints(pattern=f"^{_NUMBER},{_NUMBER}$"), Field(description="x,y in the first image.")
        ]
        | None
    ) = None
    box: (
        Annotated[
            str,
            StringConstraints(pattern=f"^{_NUMBER}(,{_NUMBER}){{3}}$"),
            Field(description="x1,y1,x2,y2 in the first."),
        ]
        | None
    ) = None
    output: Annotated[
        str,
        StringConstraints(pattern=r"^feature_map(_[0-9]{1,3})?$"),
        Field(description="The map that is compared."),
    ] = FEATURE_MAP
    size: SizeText | None = None
    format: Annotated[AnswerFormat, Field(description="How the arrays are written.")] = "json"
    dtype: Annotated[NumberType, Field(description="Of the arrays.")] = "float32"


@dataclass(frozen=True)
class Ask:
    """What is wanted of each image, in values."""

    outputs: tuple[str, ...]
    size: tuple[int, int]
    """(height, width) of the input."""
    dtype: str
    boxes: np.ndarray
    """(N, 4) on the image."""
    points: np.ndarray
    """(N, 2) on the image."""
    roi_size: int
    fields: tuple[str, str] = ("boxes", "points")
    """What the request calls them."""

    @property
    def region_maps(self) -> tuple[str, ...]:
        """Maps that boxes and points are taken from: those asked for, else the last one."""
        return tuple(name for name in self.outputs if name != EMBEDDING) or (FEATURE_MAP,)


def ask_features(query: FeaturesQuery, runner: Runner, max_size: int) -> Ask:
    """What a query means for this artifact.

    Raises:
        Refusal: 422 with the name of the parameter.
    """
    return Ask(
        outputs=parse_outputs(query.outputs, runner),
        size=parse_size(query.size, runner, max_size),
        dtype=query.dtype,
        boxes=parse_boxes(query.boxes, "boxes"),
        points=parse_numbers(query.points, 2),
        roi_size=query.roi_size,
    )


def ask_similarity(query: SimilarityQuery, runner: Runner, max_size: int) -> Ask:
    """What a query means for the first image of a comparison.

    Raises:
        Refusal: 422 with the name of the parameter.
    """
    if (query.point is None) == (query.box is None):
        raise invalid("point", "give either a point or a box in the first image")
    return Ask(
        outputs=parse_outputs(query.output, runner, "output"),
        size=parse_size(query.size, runner, max_size),
        dtype=query.dtype,
        boxes=parse_boxes([query.box] if query.box else [], "box"),
        points=parse_numbers([query.point] if query.point else [], 2),
        roi_size=1,
        fields=("box", "point"),
    )


def parse_outputs(text: str, runner: Runner, field: str = "outputs") -> tuple[str, ...]:
    """Names, each once, in the order given."""
    known = [spec.name for spec in runner.manifest.outputs]
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise invalid(field, f"this artifact has no {name!r}, only {', '.join(known)}")
    return names


def parse_size(text: str | None, runner: Runner, max_size: int) -> tuple[int, int]:
    """(height, width), or the artifact's own."""
    if text is None:
        base = runner.preprocessing.size
        return runner.nearest_size(base, base)
    parts = [int(part) for part in text.split("x")]
    height, width = parts[0], parts[-1]
    if max(height, width) > max_size:
        raise invalid("size", f"this service takes up to {max_size} pixels a side, got {text}")
    try:
        runner.manifest.check_axis("height", height)
        runner.manifest.check_axis("width", width)
    except ValueError as error:
        raise invalid("size", str(error)) from error
    return height, width


def parse_boxes(texts: list[str], field: str) -> np.ndarray:
    """(N, 4) float64, x1 < x2 and y1 < y2."""
    boxes = parse_numbers(texts, 4)
    for text, (x1, y1, x2, y2) in zip(texts, boxes, strict=True):
        if x1 >= x2 or y1 >= y2:
            raise invalid(field, f"a box is x1,y1,x2,y2 with x1 < x2 and y1 < y2, got {text}")
    return boxes


def parse_numbers(texts: list[str], count: int) -> np.ndarray:
    """(N, count) float64 out of texts whose form was checked."""
    return np.array([[float(part) for part in text.split(",")] for text in texts], np.float64).reshape(-1, count)


def explain(kind: str, message: str, context: dict[str, object]) -> str:
    """A validation error in our own words: the library's may quote a pattern, which helps nobody."""
    if kind == "extra_forbidden":
        return "there is no such parameter"
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        return f"must be {context.get('expected', 'another value')}"
    if kind == "string_pattern_mismatch":
        return "is not of the form that /docs shows"
    return re.sub(r"\s+", " ", message)[:200].lower()
