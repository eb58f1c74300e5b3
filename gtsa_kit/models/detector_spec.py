"""Settings of a detector's head."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

STRIDES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Stride of each level as a multiple of the patch size, finest first; boxes are read from the first four."""
FINEST_LEVEL: Final = 2
"""Number of the finest level in the rule of Lin et al. for boxes: level 4 holds those of 224 x 224 pixels."""
BOX_GRID: Final = 7
"""Side of the maps that are read for boxes."""
MASK_GRID: Final = 14
"""Side of the maps that are read for masks; masks are twice as large."""
MASK_SIZE: Final = 2 * MASK_GRID
"""Side of a predicted mask, which covers its box."""


@dataclass(frozen=True)
class DetectorSpec:
    """Everything that determines a detector's head but its classes, the encoder and the weights."""

    masks: bool = True
    """True for instances (Mask R-CNN), False for boxes alone (Faster R-CNN)."""
    channels: int = 256
    """Channels of the feature pyramid network and of the heads on it."""
    box_channels: int = 1024
    """Width of the two linear layers that classify a box."""
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Side of a square anchor in pixels by level, finest first."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height to width of the anchors at each position."""
    pre_nms: int = 1000
    """Number of anchors of a level that become candidates for proposals."""
    proposals: int = 1000
    """Number of proposals of an image, over all levels."""
    rpn_nms: float = 0.7
    """IoU above which a proposal suppresses another one of its level."""
    nms: float = 0.5
    """IoU above which a detection suppresses another one of its class."""
    score_threshold: float = 0.05
    """Score that a detection exceeds."""
    max_detections: int = 100
    """Number of detections of an image, N; slots that are not used have the score 0."""
    train_proposals: int = 2000
    """Number of candidates of a level, and of proposals of an image, in training."""
    train_boxes: int = 512
    """Number of proposals of an image that the losses of boxes use; a quarter of them lie on objects, at most."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a number that is out of range."""
        counts = ("channels", "box_channels", "pre_nms", "proposals", "max_detections", "train_proposals")
        for name in (*counts, "train_boxes"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} of a detector must be positive, got {getattr(self, name)}")
        for name in ("rpn_nms", "nms", "score_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} of a detector must lie between 0 and 1, got {getattr(self, name)}")
        if len(self.anchor_sizes) != len(STRIDES) or not all(size > 0 for size in self.anchor_sizes):
            raise ValueError(f"a detector takes {len(STRIDES)} positive sizes of anchors, got {self.anchor_sizes}")
        if not self.anchor_ratios or not all(ratio > 0 for ratio in self.anchor_ratios):
            raise ValueError(f"a detector takes positive ratios of anchors, got {self.anchor_ratios}")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "DetectorSpec":
        """Build from a dictionary with what `dataclasses.asdict` returns; raise `KeyError` for a missing field."""
        fields = {name: content[name] for name in cls.__dataclass_fields__}
        tuples = {name: tuple(fields[name]) for name in ("anchor_sizes", "anchor_ratios")}
        return cls(**{**fields, **tuples})

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for files."""
        return asdict(self)
