"""Query parameters of the routes of tasks, and their validation against the heads of the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from gtsa_kit.embedding.resize_policy import ResizePolicy, choose_resize_policy
from gtsa_kit.models.task_spec import Task
from gtsa_kit.service.errors import APIError, invalid_parameter
from gtsa_kit.service.query import SizeText, StrictQuery, parse_size
from gtsa_kit.service.served_model import ServedModel
from gtsa_kit.tasks.detections import SHOWN_SCORE

MaskFormat = Literal["png", "npz", "safetensors", "rle", "json"]
HEAD_NAME: Final = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
"""Pattern of the name of a head."""

HeadName = Annotated[
    str,
    StringConstraints(pattern=HEAD_NAME),
    Field(description="Name of a head of the model. Default: all heads for this task.", examples=["road"]),
]


class SegmentQuery(StrictQuery):
    """Query parameters of POST /v1/segment."""

    format: Annotated[
        MaskFormat,
        Field(
            description="png: index mask with the colors of the labels; npz, safetensors: class numbers `mask` (H, W); "
            "rle: annotations of COCO; json: the share of each class."
        ),
    ] = "png"
    probabilities: Annotated[
        bool, Field(description="With npz and safetensors: also `probabilities` (K, H, W), float16.")
    ] = False
    size: SizeText | None = None
    head: HeadName | None = None


class ClassifyQuery(StrictQuery):
    """Query parameters of POST /v1/classify."""

    format: Annotated[
        Literal["json", "npz", "safetensors"],
        Field(description="json: the most probable classes; npz, safetensors: also `probabilities` (K), float32."),
    ] = "json"
    top_k: Annotated[int, Field(ge=1, le=255, description="Number of classes to name.")] = 5
    size: SizeText | None = None
    head: HeadName | None = None


class DetectQuery(StrictQuery):
    """Query parameters of POST /v1/detect."""

    format: Annotated[
        Literal["json", "npz", "safetensors", "png"],
        Field(
            description="json: the detections; npz, safetensors: also `boxes` (N, 4), `scores` (N) and `labels` (N); "
            "png: the image with boxes, masks, names and scores."
        ),
    ] = "json"
    threshold: Annotated[float, Field(ge=0, le=1, description="Lowest score of the detections.")] = SHOWN_SCORE
    masks: Annotated[
        bool,
        Field(
            description="json: the `mask` of each detection as COCO's run lengths; npz, safetensors: `masks` (N, H, W)."
        ),
    ] = False
    size: SizeText | None = None
    head: HeadName | None = None


TaskQuery = SegmentQuery | ClassifyQuery | DetectQuery
TASKS: Final[Mapping[type[TaskQuery], Task]] = {
    SegmentQuery: "segment",
    ClassifyQuery: "classify",
    DetectQuery: "detect",
}
WHAT: Final[Mapping[Task, str]] = {"segment": "images", "classify": "images", "detect": "objects"}
"""Object of the verb of each task."""


@dataclass(frozen=True)
class TaskRequest:
    """Validated request for the predictions for one image."""

    heads: tuple[str, ...]
    """Names of the heads, at least one."""
    resize: ResizePolicy
    """Rule for the size of the model's input."""
    format: str
    """Format of the response."""
    probabilities: bool = False
    """True to return the probabilities of pixels."""
    top_k: int = 5
    """Number of classes to name."""
    threshold: float = SHOWN_SCORE
    """Lowest score of detections."""
    masks: bool = False
    """True to return the masks of detections."""
    picture: bool = False
    """True to return a picture of the image with its detections."""


def parse_task_request(query: TaskQuery, model: ServedModel, max_size: int) -> TaskRequest:
    """Validate a query of a task against the model.

    Raises:
        APIError: 404, the model does not do this task; 422 with the name of the parameter.
    """
    heads = select_heads(model, TASKS[type(query)], query.head)
    resize = _choose_resize(model, heads, query.size, max_size)
    if isinstance(query, ClassifyQuery):
        return TaskRequest(heads, resize, query.format, top_k=query.top_k)
    if isinstance(query, DetectQuery):
        return _parse_detection(query, model, heads, resize)
    if query.format == "png" and len(heads) > 1:
        raise invalid_parameter("head", f"a png holds one mask; choose one of {', '.join(heads)}, or another format")
    if query.probabilities and query.format not in ("npz", "safetensors"):
        raise invalid_parameter("probabilities", "are returned by the formats npz and safetensors")
    if query.probabilities and any(model.heads[name].gives_mask for name in heads):
        raise invalid_parameter("probabilities", "this model returns masks alone; export it without --output mask")
    return TaskRequest(heads, resize, query.format, query.probabilities)


def _parse_detection(
    query: DetectQuery, model: ServedModel, heads: tuple[str, ...], resize: ResizePolicy
) -> TaskRequest:
    manifest = model.manifest
    if query.threshold < (manifest.score_threshold or 0):
        raise invalid_parameter("threshold", f"the model gives detections from {manifest.score_threshold:g} on")
    if query.masks and manifest.mask_format is None:
        raise invalid_parameter("masks", "this model detects boxes alone")
    if query.masks and query.format == "png":
        raise invalid_parameter("masks", "a png shows them in any case; omit the parameter")
    options = {"threshold": query.threshold, "masks": query.masks, "picture": query.format == "png"}
    return TaskRequest(heads, resize, query.format, **options)  # type: ignore[arg-type]


def select_heads(model: ServedModel, task: Task, head: str | None) -> tuple[str, ...]:
    """Return the names of the heads for a task, or the one that is requested.

    Raises:
        APIError: 404, no head does the task; 422, there is no such head, or it does another task.
    """
    names = tuple(name for name, one in model.heads.items() if one.task == task)
    if not names:
        other = ", ".join(f"/v1/{one.task}" for one in model.heads.values())
        hint = (
            f"it answers {other}"
            if other
            else "it computes features; serve it with --head, or serve a fine-tuned model"
        )
        raise APIError(404, "no_task", f"this model does not {task} {WHAT[task]}; {hint}")
    if head is not None and head not in names:
        raise invalid_parameter("head", f"this model has no {head!r} to {task} {WHAT[task]}, only {', '.join(names)}")
    return names if head is None else (head,)


def _choose_resize(model: ServedModel, heads: tuple[str, ...], size: str | None, max_size: int) -> ResizePolicy:
    if size is not None:
        return choose_resize_policy(model.manifest, parse_size(size, model, max_size))
    sides = {model.heads[name].short_side for name in heads}
    if len(sides) > 1:
        each = ", ".join(f"{name}: {model.heads[name].short_side or 'a square'}" for name in heads)
        raise invalid_parameter("size", f"the heads were trained at different sizes ({each}); give a size, or one head")
    (side,) = sides
    fixed = model.manifest.range_of("height").fixed
    return choose_resize_policy(model.manifest, short_side=None if fixed else side)
