"""Description of a task model: its task, classes and head, and the outputs that it gives."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.detector_spec import DetectorSpec

Pyramid = Literal["flat", "strided"]
LEVELS: Final = 4
"""Number of maps in a pyramid."""
BLOCKS: Final = 4
"""Blocks of the ViT that see the queries; half of them in a ViT with fewer than eight."""
Task = Literal["segment", "classify", "detect"]
MaskFormat = Literal["index", "color"]
HEADS: Final[Mapping[Task, tuple[str, ...]]] = {
    "segment": ("fpn", "linear", "eomt"),
    "classify": ("linear",),
    "detect": ("mask-rcnn", "faster-rcnn", "eomt"),
}
"""Heads of each task, the default first."""


@dataclass(frozen=True)
class Label:
    """A class of a task."""

    id: int
    """Value that means the class in the user's data: of pixels in masks (colors as 0xRRGGBB), else the class number."""
    name: str
    color: tuple[int, int, int]
    """Color in pictures, RGB 0 to 255."""
    aliases: tuple[int, ...] = ()
    """Further values of masks that mean the class."""


@dataclass(frozen=True)
class TaskSpec:
    """Everything that determines a task model but its encoder and its weights."""

    task: Task
    labels: tuple[Label, ...]
    """Classes by class number."""
    head: str
    """One of `HEADS`."""
    layers: tuple[int, ...] = ()
    """Blocks whose maps the head takes; none for the last feature map, or the embedding for classes."""
    final_norm: bool = True
    """True if these features are after the encoder's final norm, as exported encoders give them."""
    pyramid: Pyramid = "flat"
    """Strides of the maps in the head fpn."""
    channels: int = 128
    """Channels of the head fpn before its classifier."""
    dropout: float = 0.1
    """Rate of dropout before the classifier of the head fpn, 0 to 1."""
    short_side: int | None = None
    """Short side of an input in pixels, where images keep their aspect ratio; None stretches them to the square of the
    preprocessing."""
    long_side: int = 0
    """Largest long side of an input in pixels, with `short_side`; 0 is unbounded."""
    crop_from: int = 0
    """Short side in pixels to which an image with a class is resized before the square of the preprocessing is cut from
    its center; 0 stretches the image."""
    label_masks: MaskFormat = "index"
    """Meaning of the ids of labels in masks: indices, or colors as 0xRRGGBB."""
    detector: DetectorSpec | None = None
    """Head of a detector; None for other tasks."""
    blocks: int = 0
    """Number of the ViT's last blocks that are a part of the head eomt, and not of the encoder; 0 for other heads."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a task or head that does not exist, or layers that the head can't take."""
        if self.task not in HEADS or self.head not in HEADS[self.task]:
            heads = ", ".join(HEADS.get(self.task, ()))
            raise ValueError(f"no head {self.head!r} for the task {self.task!r}; heads: {heads or 'none'}")
        if self.head in ("fpn", "mask-rcnn", "faster-rcnn") and len(self.layers) != LEVELS:
            raise ValueError(f"the head {self.head} takes the maps of {LEVELS} blocks, got {self.layers}")
        if (self.head == "eomt") != (self.blocks > 0) or (self.head == "eomt" and len(self.layers) != 1):
            raise ValueError(f"the head eomt takes one map and at least one block, got {self.layers}, {self.blocks}")
        if self.head == "eomt" and self.final_norm:
            raise ValueError("the head eomt takes the map of a block without the encoder's final norm")
        if self.task == "classify" and self.layers:
            raise ValueError(f"a head for classes takes the embedding, got the blocks {self.layers}")
        if self.pyramid not in get_args(Pyramid):
            raise ValueError(f"the pyramid is {' or '.join(get_args(Pyramid))}, got {self.pyramid!r}")
        if self.label_masks not in get_args(MaskFormat):
            raise ValueError(f"masks hold {' or '.join(get_args(MaskFormat))}, got {self.label_masks!r}")
        if (self.detector is not None) != (self.task == "detect") or (
            self.detector is not None and self.detector.masks != (self.head != "faster-rcnn")
        ):
            raise ValueError(f"the head {self.head} does not go with the settings of a detector: {self.detector}")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for model.json, checkpoints and manifests; `detector` is there for detectors alone."""
        return {name: value for name, value in asdict(self).items() if name != "detector" or value is not None}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TaskSpec":
        """Build from a dictionary with what `to_dict` returns.

        Raises:
            ValueError: A field is missing or has a wrong value.
        """
        try:
            fields = {name: content[name] for name in cls.__dataclass_fields__ if name != "detector"}
            labels = tuple(
                Label(int(x["id"]), str(x["name"]), tuple(x["color"]), tuple(x["aliases"])) for x in fields["labels"]
            )
            detector = DetectorSpec.from_dict(content["detector"]) if "detector" in content else None
            return cls(**{**fields, "labels": labels, "layers": tuple(fields["layers"]), "detector": detector})
        except (KeyError, TypeError) as error:
            raise ValueError(f"the description of the task is damaged: {error!r}; train the model again") from error


def head_layers(architecture: Architecture, task: Task, head: str) -> tuple[int, ...]:
    """Return the blocks whose maps a head takes by default.

    For fpn, mask-rcnn and faster-rcnn they are the last one of each quarter, for eomt the one before the blocks of
    `head_blocks`.
    """
    if task == "classify" or head == "linear":
        return ()
    if head == "eomt":
        return (architecture.depth - head_blocks(architecture, head) - 1,)
    return tuple(-(-(i + 1) * architecture.depth // LEVELS) - 1 for i in range(LEVELS))


def head_blocks(architecture: Architecture, head: str) -> int:
    """Return how many of the ViT's last blocks become a part of a head: `BLOCKS` for eomt, at most half of the ViT."""
    return min(BLOCKS, architecture.depth // 2) if head == "eomt" else 0
